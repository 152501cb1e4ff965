"""Any spec, command line or file of a run is used, or refused with one of our errors."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.artifacts.saved_model import DESCRIPTION, SavedModel, load_model, save_model
from sumgrad.jobs.cli.app import run
from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import (
    JobError,
    ModelNotFound,
    RunAmbiguous,
    RunDamaged,
    RunNotFound,
    SpecError,
)
from sumgrad.jobs.runs.build import build_job
from sumgrad.jobs.runs.directory import RunDirectory, find_run
from sumgrad.jobs.runs.registry import format_run_table, list_runs
from sumgrad.jobs.spec.loader import example_names, load_spec, read_example
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.validation import all_keys
from sumgrad.jobs.tracking.metadata import RECORD
from sumgrad.model import Layer, Network, make_activation, resolve_divergence
from tests.fuzzing import cases, only
from tests.jobs.runs.records import RECORD_OF_A_RUN

Tree = Any
NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 10**30, -(2**63), 0.5, 1e-300, 1e308, -0.0]),
    st.floats(),
)
WORDS = st.sampled_from(
    [
        *("relu", "softmax", "sigmoid", "max", "kl", "l2", "adam", "full", "digits", "diabetes"),
        *("none", "inline", "cosine", "minmax", "float64", "../..", "/dev/null", "http://[", "\0"),
        *("", "ü", "a" * 200),
    ]
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=5))
KEYS = st.sampled_from(
    [key.rpartition(".")[2].removesuffix("[]") for key in all_keys(JobSpec)] + ["x", ""]
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, original: Tree) -> Tree:
    """A tree with one to three of its places changed, removed or added to."""
    tree = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        here, key = draw(st.sampled_from(places))
        what = draw(st.integers(0, 9))
        if what == 0:
            del here[key]
        elif what == 1 and isinstance(here, dict):
            here[draw(KEYS)] = draw(TREES)
        elif what < 6:
            here[key] = draw(SCALARS)
        else:
            here[key] = draw(TREES)
        if not tree:
            break
    return tree


def _places(tree: Tree) -> list[tuple[Any, Any]]:
    """Every value of a tree as its container and its key there."""
    items: list[Any] = []
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    return [(tree, key) for key, _ in items] + [
        place for _, inner in items for place in _places(inner)
    ]


SPECS = [yaml.safe_load(read_example(name)) for name in example_names() if name != "mnist"]
CHANGED_SPECS = st.sampled_from(SPECS).flatmap(changed)


@cases(1500)
@given(tree=CHANGED_SPECS)
def test_any_change_to_a_spec(tmp_path: Path, tree: Tree) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    with only(SpecError):
        load_spec(str(path))


@cases(800)
@given(tree=CHANGED_SPECS)
def test_what_is_loaded_is_put_together_or_refused(tmp_path: Path, tree: Tree) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    with only(JobError):
        spec = load_spec(str(path)).spec
        build_job(spec, prepare(spec))


IDS = [f"{index:016x}" for index in range(3)]


@cases(300)
@given(data=st.data())
def test_any_change_to_the_record_of_a_run(
    tmp_path: Path, data: st.DataObject, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "runs"
    shutil.rmtree(output, ignore_errors=True)
    for run_id in IDS:
        folder = RunDirectory.create(output / run_id, replace(RECORD_OF_A_RUN, run_id=run_id))
        record = json.loads((folder.path / RECORD).read_text())
        if data.draw(st.booleans()):
            record = data.draw(changed(record))
        (folder.path / RECORD).write_text(json.dumps(record))
    caplog.clear()
    listed = list_runs(output)
    assert all(map(str.isprintable, caplog.messages))
    assert all(map(str.isprintable, format_run_table(listed)))
    json.loads(json.dumps(listed))
    for run_id in IDS:
        with only(RunNotFound, RunAmbiguous):
            found = find_run(run_id, output)
            assert isinstance(found.status, str)
            found.record.to_json()
        with only(RunDamaged):
            RunDirectory.open(output / run_id)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = make_activation("softmax")
    layers = (Layer(2, make_activation("relu")), Layer(2, output))
    network = Network(2, layers, resolve_divergence("kl", output))
    flat = np.arange(network.layout.size, dtype=np.float32)
    schema = DataSchema(("a", "b"), classes=("x", "y"))
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(folder, SavedModel("m", network, network.parameters(flat), schema, {"seed": 7}))
    return folder


@cases(600)
@given(data=st.data())
def test_any_change_to_a_models_description(
    model: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "model"
    if not folder.exists():
        shutil.copytree(model, folder)
    description = json.loads((model / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(data.draw(changed(description))))
    with only(ModelNotFound):
        load_model(folder)


ARGUMENTS = st.lists(
    st.sampled_from(
        [
            *("config", "show", "validate", "schema", "evaluate", "predict", "gradcheck", "runs"),
            *("sync", "init", "resume", "digits", "nothing.yaml", "rows.csv", "model", "runs"),
            *("0123456789", "--set", "optimizer.eta=0.1", "seed=x", "=", "--json", "--out", "-o"),
            *("--output", ".", "--features", "0", "3", "-1", "--keys", "--list", "-", "--", "ü\n"),
            *("--tracking-uri", "sqlite:///no/x.db", "http://127.0.0.1:9", "--nonsense", "--help"),
            *("/dev/null", "/dev/zero", "..", "../../x", "/etc/passwd", "pipe", ""),
        ]
    ),
    max_size=6,
)


@cases(400)
@given(arguments=ARGUMENTS)
def test_any_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("x,label\n1,a\n")
    if not (tmp_path / "pipe").exists():
        os.mkfifo(tmp_path / "pipe")
    code = run(arguments)
    said = capsys.readouterr()
    assert code in (0, 1, 2, 3), arguments
    assert "internal error" not in said.err, arguments
    assert "Traceback" not in said.err + said.out
    if code:
        assert said.err.startswith("error: ") or said.out, arguments
