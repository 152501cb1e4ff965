"""Specs are loaded with every default, and every fault is one line with a place and a hint."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend.session import check_reachable
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.loader import all_keys, example_names, load_spec, split_key
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.spec.template import starting_spec, write_template
from sumgrad.jobs.spec.text import dump_spec
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


def test_examples_are_the_promised_ones_and_all_load() -> None:
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
    ("override", "place", "message", "hint"),
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
        ("optimizer.batch_size=ful", "optimizer.batch_size", "or should be 'full'", ""),
        ("optimizer.batch_size=0", "optimizer.batch_size", "should be greater than 0", ""),
        ("optimizer.name=adma", "optimizer.name", "unknown optimizer 'adma'", "'adam'"),
        ("optimizer.momentum=0.9", "optimizer.momentum", "has no option 'momentum'", ""),
        ("seed=1.5", "seed", "1.5 should be a whole number", ""),
        ("stop.max_epochs=yes", "stop.max_epochs", "should be a whole number", ""),
        ("model.layers=[]", "model.layers", "at least one item", ""),
        ("model.layers=3", "model.layers", "3 should be a list", ""),
        ("model.layers[0].activation=softmx", "activation", "unknown activation", "'softmax'"),
        ("model.layers[0].initializer=hee", "initializer", "unknown initializer", ""),
        ("model.layers[0].activation={name: elu, alfa: 1}", "activation", "no option", "'alpha'"),
        ("model.layers[0].activation={name: max, subsets: [[0, 9]]}", "activation", "index 9", ""),
        ("model.divergence=klx", "model.divergence", "unknown divergence", "'kl'"),
        ("model.divergence=kl_two_class", "model.divergence", "does not fit", "sigmoid"),
        ("data.scaling=units", "data.scaling", "none of", "'unit'"),
        ("data.train=null", "data.train", "should be a text", ""),
        ("stop.early_stopping={}", "stop.early_stopping", "needs validation", "data.validation"),
        ("optimizer=3", "optimizer", "mapping of keys", ""),
        ("name=a/b", "name", "letters, digits", ""),
        ("cluster.workers=0", "cluster.workers", "greater than 0", ""),
        ("cluster.workers=5000", "cluster.workers", "less than or equal to 1024", ""),
        ("cluster.workers={min: 0}", "cluster.workers.min", "greater than 0", ""),
        ("cluster.workers={min: 3, max: 2}", "cluster.workers.max", "less than min (3)", ""),
        ("cluster.workers={least: 3}", "cluster.workers.least", "unknown key", ""),
        ("cluster.workers=many", "cluster.workers", "should be a whole number", ""),
        ("cluster.resource_timeout=1e300", "cluster.resource_timeout", "less than or equal to", ""),
        ("model.layers[0].units=10000000000", "model.layers[0].units", "should be less than", ""),
    ],
)
def test_every_fault_is_one_line_with_a_place_and_a_hint(
    short: str, override: str, place: str, message: str, hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(short, [override])
    text = str(caught.value)
    assert place in text
    assert message in text
    assert hint in caught.value.hint
    assert "\n" not in text


def test_a_fault_in_a_file_names_file_line_and_key(tmp_path: Path) -> None:
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
def test_an_override_that_has_no_place_is_refused(short: str, override: str, message: str) -> None:
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
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        load_spec(str(path))


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("put_there", "why"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (lambda path: path.symlink_to("/dev/null"), "it is no regular file"),
        (os.mkfifo, "it is no regular file"),
        (Path.mkdir, "it is a folder"),
        (lambda path: path.write_bytes(b"#" * (1 << 20 | 1)), "larger than 1 MiB; that is not"),
        (_sparse, "larger than 1 MiB; that is not"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("name", ["job.yaml", "job"])
def test_what_is_no_file_of_a_specs_size_is_not_read(
    tmp_path: Path, put_there: Callable[[Path], object], why: str, name: str
) -> None:
    path = tmp_path / name
    put_there(path)
    with pytest.raises(SpecError) as caught:
        load_spec(str(path))
    if path.exists() or name == "job.yaml":
        assert caught.value.message.startswith(f"{path}: cannot be read: {why}")


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin/x", "x" * 5000, "a\0b", "", "..", "/"])
def test_names_that_no_spec_has(name: str) -> None:
    with only(SpecError):
        load_spec(name)


def test_an_index_of_thousands_of_digits_is_none() -> None:
    with pytest.raises(SpecError, match="there is no"):
        load_spec("digits", [f"model.layers[{'9' * 5000}].units=1"])


def test_a_name_that_is_neither_file_nor_example_gets_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("digit")
    assert caught.value.hint == "did you mean 'digits'?"
    with pytest.raises(SpecError, match=r"nowhere.yaml: cannot be read: No such file"):
        load_spec("nowhere.yaml")


def test_mlflows_environment_variable_stands_in_where_the_spec_is_silent(
    short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert load_spec(short).spec.tracking.uri == "http://tracking:5000"
    overridden = load_spec(short, ["tracking.uri=sqlite:///own.db"])
    assert overridden.spec.tracking.uri == "sqlite:///own.db"


def test_the_resolved_spec_gives_the_same_job_again(tmp_path: Path) -> None:
    for name in example_names():
        spec = load_spec(name).spec
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_spec(spec))
        assert load_spec(str(path)).spec == spec


def test_the_starting_spec_is_valid_and_has_every_key(tmp_path: Path) -> None:
    out = tmp_path / "job.yaml"
    write_template(out, None)
    spec = load_spec(str(out)).spec
    assert spec.stop.early_stopping is None
    text = out.read_text()
    for key in all_keys():
        if not key.startswith(("data.reject.", "stop.early_stopping.")):
            assert f"{key.rpartition('.')[2]}:" in text, key


def test_the_starting_specs_comments_hold_the_defaults(tmp_path: Path) -> None:
    """Taking the comment signs away from the keys must change nothing."""
    key_line = re.compile(r"^( *)# (\w+: \S+)$", re.MULTILINE)
    uncommented, keys = key_line.subn(r"\1\2", starting_spec())
    assert keys > 20
    values, commented = yaml.safe_load(uncommented), yaml.safe_load(starting_spec())
    assert values != commented
    assert JobSpec.model_validate(values) == JobSpec.model_validate(commented)


def test_every_key_of_the_schema_is_explained() -> None:
    def unexplained(schema: dict[str, Any]) -> list[str]:
        return [
            f"{schema.get('title')}.{name}"
            for name, key in schema.get("properties", {}).items()
            if "description" not in key and "$ref" not in key
        ]

    schema = JobSpec.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    missing = [name for section in sections for name in unexplained(section)]
    assert not missing


def test_dotted_keys_are_split() -> None:
    assert split_key("a.b[2].c") == ["a", "b", 2, "c"]


KEYS = st.sampled_from([*all_keys(), "foo", "a.b", "model.layers[0]", "model.layers[0].units", ""])
VALUES = st.text(alphabet="ab01.-e[]{}:, \n'\"&*", max_size=12)


@cases(1000)
@given(key=KEYS, value=VALUES)
def test_whatever_is_set_only_declared_errors_come_out(key: str, value: str) -> None:
    with only(SpecError):
        load_spec("digits", [f"{key}={value}"])


@pytest.mark.parametrize("address", ["inline", "local", "auto", "head:6379", "[::1]:6379"])
def test_a_place_to_run_at_is_taken(short: str, address: str) -> None:
    assert load_spec(short, [f"cluster.address='{address}'"]).spec.cluster.address == address


@pytest.mark.parametrize(
    "address",
    ["", "somewhere", "head:", ":6379", "head:port", "head:²", "ray://head:10001", "Local"],
)
def test_what_is_no_place_to_run_at_is_refused_in_the_words_of_who_runs_there(
    tmp_path: Path, address: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{SHORT}cluster:\n  address: '{address}'\n")
    with pytest.raises(SpecError) as refused:
        load_spec(str(path))
    with pytest.raises(ClusterUnreachable) as expected:
        check_reachable(address)
    words = expected.value.message.removeprefix("cluster.address ")
    assert refused.value.message == f"{path}, line 8: cluster.address: {words}"
    assert refused.value.hint == expected.value.hint


def test_the_environment_says_where_runs_are_kept(
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


def test_the_reference_of_the_spec_tells_of_the_environment() -> None:
    described = JobSpec.model_json_schema()["properties"]["output"]["description"]
    assert "SUMGRAD_OUTPUT" in described
    assert "SUMGRAD_OUTPUT" in starting_spec()
