"""Specs are loaded with every default; each error is one line with the key and a hint."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.loader import example_names, load_spec, split_key
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.spec.text import spec_template
from sumgrad.jobs.support.validation import all_keys
from tests.fuzzing import cases, only

SHORT = """\
name: short
data:
  train: rows.parquet
model:
  layers:
    - {units: 3, activation: softmax}
"""


@pytest.fixture
def short(tmp_path: Path) -> str:
    path = tmp_path / "short.yaml"
    path.write_text(SHORT)
    return str(path)


def _range(spec: JobSpec) -> tuple[int, int | None]:
    wanted = spec.cluster.worker_range
    return wanted.min, wanted.max


def test_a_short_spec_is_enough(short: str) -> None:
    spec = load_spec(short).spec
    assert spec.optimizer.name == "gradient_descent"
    assert spec.cluster.address == "local"
    assert spec.tracking.uri == "sqlite:///mlflow.db"
    assert spec.task == "classification"


def test_the_documented_examples_exist_and_load() -> None:
    promised = {"digits", "two-or-not", "digits-reject", "mnist", "regression"}
    assert promised <= set(example_names())
    for name in example_names():
        assert load_spec(name).spec.name == name


def test_a_file_is_preferred_to_an_example_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text(SHORT)
    assert load_spec("digits").spec.name == "short"
    Path("digits").unlink()
    Path("digits").mkdir()
    assert load_spec("digits").spec.name == "digits"


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("optimizer.eta=0.25", lambda s: s.optimizer.eta, 0.25),
        ("optimizer.eta=1e-3", lambda s: s.optimizer.eta, 0.001),
        ("optimizer.batch_size=full", lambda s: s.optimizer.batch_size, "full"),
        ("model.layers[0].units=7", lambda s: s.model.layers[0].units, 7),
        ("stop.early_stopping=null", lambda s: s.stop.early_stopping, None),
        ("data.features=[a, b]", lambda s: s.data.features, ("a", "b")),
        ("data.test=0.3", lambda s: s.data.test, 0.3),
        ("data.test=rows.csv", lambda s: s.data.test, "rows.csv"),
        ("optimizer.schedule.name=cosine", lambda s: s.optimizer.schedule.name, "cosine"),
        ("tracking.uri=http://a/b?c=d", lambda s: s.tracking.uri, "http://a/b?c=d"),
        ("data.positive=no", lambda s: s.data.positive, "no"),
        ("stop=", lambda s: s.stop.max_epochs, 100),
        ("cluster.workers=3", _range, (3, 3)),
        ("cluster.workers={min: 2}", _range, (2, None)),
        ("cluster.workers={max: 4}", _range, (1, 4)),
        ("cluster.workers=null", _range, (1, None)),
    ],
)
def test_a_key_can_be_set_from_the_command_line(
    short: str, override: str, get: Any, value: object
) -> None:
    assert get(load_spec(short, [override]).spec) == value


@pytest.mark.parametrize(
    ("override", "key", "message", "hint"),
    [
        ("optimizer.etaa=1", "optimizer.etaa", "unknown key", "'optimizer.eta'"),
        ("optimizer.lr=1", "optimizer.lr", "unknown key", "'optimizer.eta'"),
        ("workers=3", "workers", "unknown key", "'cluster.workers'"),
        ("epochs=3", "epochs", "unknown key", "'stop.max_epochs'"),
        ("model.layers[0].unit=3", "model.layers[0].unit", "unknown", "'model.layers[0].units'"),
        ("xyz.a.b=3", "xyz", "unknown key", "known here: name"),
        ("optimizer.eta=-1", "optimizer.eta", "-1 should be greater than 0", ""),
        ("optimizer.eta=.nan", "optimizer.eta", "finite number", ""),
        ("optimizer.eta=yes", "optimizer.eta", "should be a number", ""),
        ("optimizer.learning_rate=-1", "--set optimizer.learning_rate", "-1 should be greater", ""),
        ("optimizer.batch_size=ful", "optimizer.batch_size", "or should be 'full'", ""),
        ("optimizer.batch_size=0", "optimizer.batch_size", "should be greater than 0", ""),
        ("optimizer.name=adma", "optimizer.name", "unknown optimizer 'adma'", "'adam'"),
        ("optimizer.momentum=0.9", "optimizer.momentum", "has no option 'momentum'", ""),
        ("seed=1.5", "seed", "1.5 should be an integer", ""),
        ("stop.max_epochs=yes", "stop.max_epochs", "should be an integer", ""),
        ("model.layers=[]", "model.layers", "at least one item", ""),
        ("model.layers=3", "model.layers", "3 should be a list", ""),
        ("model.layers[0].activation=softmx", "activation", "unknown activation", "'softmax'"),
        ("model.layers[0].initializer=hee", "initializer", "unknown initializer", ""),
        ("model.layers[0].activation={name: elu, alfa: 1}", "activation", "no option", "'alpha'"),
        ("model.layers[0].activation={name: max, subsets: [[0, 9]]}", "activation", "index 9", ""),
        ("model.divergence=klx", "model.divergence", "unknown divergence", "'kl'"),
        ("model.divergence=kl_two_class", "model.divergence", "does not fit", "sigmoid"),
        ("data.scaling=standar", "data.scaling", "should be one of", "'standard'"),
        ("data.scaling=unit", "data.scaling", "should be one of", "'minmax'"),
        (
            "tracking.on_unavailable=spool",
            "tracking.on_unavailable",
            "should be one of",
            "'buffer'",
        ),
        ("tracking.outage=fail", "outage", "unknown key", "'tracking.on_unavailable'"),
        ("cluster.shard_rows=8", "shard_rows", "unknown key", "'cluster.microbatch_size'"),
        ("cluster.wait_seconds=8", "wait_seconds", "unknown key", "'cluster.resource_timeout'"),
        ("optimizer.schedule.warm_up=1", "warm_up", "unknown key", "'optimizer.schedule.warmup'"),
        ("data.train=null", "data.train", "should be a string", ""),
        ("stop.early_stopping={}", "stop.early_stopping", "needs validation", "data.validation"),
        ("optimizer=3", "optimizer", "mapping of keys", ""),
        ("name=a/b", "name", "letters, digits", ""),
        ("cluster.workers=0", "cluster.workers", "greater than 0", ""),
        ("cluster.workers=5000", "cluster.workers", "less than or equal to 1024", ""),
        ("cluster.workers={min: 0}", "cluster.workers.min", "greater than 0", ""),
        ("cluster.workers={min: 3, max: 2}", "cluster.workers.max", "less than min (3)", ""),
        ("cluster.workers={least: 3}", "cluster.workers.least", "unknown key", ""),
        ("cluster.workers=many", "cluster.workers", "should be an integer", ""),
        ("cluster.resource_timeout=1e300", "cluster.resource_timeout", "less than or equal to", ""),
        ("model.layers[0].units=10000000000", "model.layers[0].units", "should be less than", ""),
    ],
)
def test_an_error_is_one_line_with_the_key_and_a_hint(
    short: str, override: str, key: str, message: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(short, [override])
    text = str(caught.value)
    assert key in text
    assert message in text
    assert hint in caught.value.hint
    assert "\n" not in text


def test_an_error_in_a_file_names_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SHORT.replace("units: 3", "unites: 3"))
    with pytest.raises(SpecError, match=r"job.yaml, line 6: model.layers\[0\].unites: unknown key"):
        load_spec(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.eta", "is not key=value"),
        ("=3", "is not key=value"),
        ("model.layers[7].units=2", r"there is no item \[7\]"),
        ("name.first=2", "there is no 'first' below it"),
        ("tracking=[", "not YAML"),
    ],
)
def test_an_override_of_a_key_that_cannot_exist_is_refused(
    short: str, override: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(short, [override])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: x\ndata: {}\nmodel: {layers: [{units: 2, activation: softmax}]}\n")
    with pytest.raises(SpecError, match=r"line 2: data.train: required, but not given"):
        load_spec(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "a job spec is a mapping"), (b"[1, 2]", "mapping"), (b"\xff\xfe\x00", "UTF-8")],
)
def test_a_file_that_is_not_a_mapping_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        load_spec(str(path))


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
        (Path.mkdir, "it is a folder"),
        (lambda path: path.write_bytes(b"#" * (1 << 20 | 1)), "larger than 1 MiB; that is not"),
        (_sparse, "larger than 1 MiB; that is not"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("name", ["job.yaml", "job"])
def test_devices_pipes_folders_and_large_files_are_not_read(
    tmp_path: Path, create: Callable[[Path], object], message: str, name: str
) -> None:
    path = tmp_path / name
    create(path)
    with pytest.raises(SpecError) as caught:
        load_spec(str(path))
    if path.exists() or name == "job.yaml":
        assert caught.value.message.startswith(f"{path}: cannot be read: {message}")


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin/x", "x" * 5000, "a\0b", "", "..", "/"])
def test_an_impossible_name_raises_a_spec_error(name: str) -> None:
    with only(SpecError):
        load_spec(name)


def test_an_index_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(SpecError, match="there is no"):
        load_spec("digits", [f"model.layers[{'9' * 5000}].units=1"])


def test_an_unknown_name_suggests_the_nearest_example() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("digit")
    assert caught.value.hint == "did you mean 'digits'?"
    with pytest.raises(SpecError, match=r"nowhere.yaml: cannot be read: No such file"):
        load_spec("nowhere.yaml")


def test_mlflow_s_environment_variable_sets_a_missing_tracking_uri(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert load_spec(short).spec.tracking.uri == "http://tracking:5000"
    # What `sumgrad init` writes has the section, with all its keys commented out.
    template = tmp_path / "template.yaml"
    template.write_text(spec_template())
    assert load_spec(str(template)).spec.tracking.uri == "http://tracking:5000"
    overridden = load_spec(short, ["tracking.uri=sqlite:///own.db"])
    assert overridden.spec.tracking.uri == "sqlite:///own.db"


def test_dotted_keys_are_split() -> None:
    assert split_key("a.b[2].c") == ["a", "b", 2, "c"]


KEYS = st.sampled_from(
    [*all_keys(JobSpec), "foo", "a.b", "model.layers[0]", "model.layers[0].units", ""]
)
VALUES = st.text(alphabet="ab01.-e[]{}:, \n'\"&*", max_size=12)


@cases(1000)
@given(key=KEYS, value=VALUES)
def test_any_override_loads_or_raises_a_spec_error(key: str, value: str) -> None:
    with only(SpecError):
        load_spec("digits", [f"{key}={value}"])


def test_an_environment_variable_sets_a_missing_output(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUMGRAD_OUTPUT", raising=False)
    assert load_spec(short).spec.output == "runs"
    monkeypatch.setenv("SUMGRAD_OUTPUT", "")
    assert load_spec(short).spec.output == "runs"
    monkeypatch.setenv("SUMGRAD_OUTPUT", "/runs")
    assert load_spec(short).spec.output == "/runs"
    assert load_spec(short, environment=False).spec.output == "runs", "it runs elsewhere"
    assert load_spec(short, ["output=mine"]).spec.output == "mine"
    path = tmp_path / "own.yaml"
    path.write_text(f"{SHORT}output: own\n")
    assert load_spec(str(path)).spec.output == "own"
