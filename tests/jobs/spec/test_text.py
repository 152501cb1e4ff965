"""`sumgrad init` writes a valid file that documents every key."""

import re
from pathlib import Path

import pytest
import yaml

from sumgrad.jobs.errors import JobError
from sumgrad.jobs.spec.loader import example_names, load_spec, read_example
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.spec.text import (
    describe_examples,
    dump_spec,
    spec_template,
    write_template,
)
from sumgrad.jobs.support.validation import all_keys


def test_the_template_is_valid_and_has_every_key(tmp_path: Path) -> None:
    out = tmp_path / "job.yaml"
    write_template(out, None)
    spec = load_spec(str(out)).spec
    assert spec.stop.early_stopping is None
    text = out.read_text()
    for key in all_keys(JobSpec):
        if not key.startswith(("data.reject.", "stop.early_stopping.")):
            assert f"{key.rpartition('.')[2]}:" in text, key
    assert max(map(len, text.splitlines())) <= 100


def test_keys_that_are_commented_out_show_their_defaults() -> None:
    key_line = re.compile(r"^( *)# (\w+: \S+)$", re.MULTILINE)
    uncommented, keys = key_line.subn(r"\1\2", spec_template())
    assert keys > 20
    values, commented = yaml.safe_load(uncommented), yaml.safe_load(spec_template())
    assert values != commented
    assert JobSpec.model_validate(values) == JobSpec.model_validate(commented)


def test_an_example_is_copied_and_no_file_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "job.yaml"
    write_template(out, "mnist")
    assert out.read_text() == read_example("mnist")
    with pytest.raises(JobError, match="exists already"):
        write_template(out, "digits")
    with pytest.raises(JobError, match="no shipped example 'digit'") as caught:
        write_template(tmp_path / "other.yaml", "digit")
    assert caught.value.hint == "did you mean 'digits'?"
    with pytest.raises(JobError, match="cannot be written: No such file"):
        write_template(tmp_path / "nowhere" / "job.yaml", None)


def test_each_example_is_described_in_one_line() -> None:
    lines = describe_examples()
    assert [line.split()[0] for line in lines] == example_names()
    assert all(line[15:].strip() and "\n" not in line for line in lines)


def test_a_resolved_spec_loads_as_the_same_spec(tmp_path: Path) -> None:
    for name in example_names():
        spec = load_spec(name).spec
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_spec(spec))
        assert load_spec(str(path)).spec == spec
