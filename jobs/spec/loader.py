"""Load a job spec: a YAML file or a shipped example, with ``--set``, as a validated `JobSpec`.

Every error names file, line and key, what is wrong, and the nearest valid key or value.
"""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.support.validation import KeyPath, dotted, first_problem
from sumgrad.jobs.support.yaml import MAX_BYTES, YamlTree, parse_yaml
from sumgrad.model.validation import did_you_mean

#: Names that keys and values have elsewhere, or had before.
SYNONYMS: Mapping[str, str] = {
    "accuracy": "stop.tolerance",
    "batch": "optimizer.batch_size",
    "dataset": "data.train",
    "epochs": "stop.max_epochs",
    "experiment_name": "tracking.experiment",
    "learning_rate": "optimizer.eta",
    "loss": "model.divergence",
    "lr": "optimizer.eta",
    "nodes": "cluster.workers",
    "num_epochs": "stop.max_epochs",
    "num_workers": "cluster.workers",
    "outage": "tracking.on_unavailable",
    "shard_rows": "cluster.microbatch_size",
    "spool": "buffer",
    "target": "data.label",
    "tracking_uri": "tracking.uri",
    "unit": "minmax",
    "wait_seconds": "cluster.resource_timeout",
    "warm_up": "optimizer.schedule.warmup",
}
#: The names of one key: the command line replaces the file's value under either name.
_LEARNING_RATE = ("eta", "learning_rate")
#: Python refuses to read numbers of thousands of digits; no list has so many items.
_PATH_PART = re.compile(r"([^.\[\]]+)|\[(\d{1,9})\]")
_EXAMPLES = resources.files("sumgrad.jobs.spec") / "examples"


class LoadedSpec(NamedTuple):
    """A validated spec, and its file or ``example NAME``."""

    spec: JobSpec
    origin: str


def example_names() -> list[str]:
    """Return the names of the shipped examples."""
    names = (item.name for item in _EXAMPLES.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_example(name: str) -> str:
    """Return the text of a shipped example."""
    return (_EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")


def load_spec(name: str, overrides: Sequence[str] = (), *, environment: bool = True) -> LoadedSpec:
    """Load and validate a YAML file or a shipped example.

    Overrides are ``key=value``, such as ``model.layers[0].units=32``. Environment variables of this
    machine replace missing keys, unless the job runs elsewhere.

    Raises:
        SpecError: The spec does not exist, is not YAML, or has an invalid key or value.
    """
    text, origin = _read(name)
    tree = parse_yaml(text, origin)
    if not isinstance(tree.value, dict):
        raise SpecError("a job spec is a mapping of keys to values", key=origin)
    set_paths = [_override(tree.value, item) for item in overrides]
    if environment:
        _set_defaults_of_environment(tree.value)
    try:
        spec = JobSpec.model_validate(tree.value)
    except ValidationError as error:
        problem = first_problem(error, JobSpec, tree.value, SYNONYMS)
        where = _location(problem.path, tree, origin, set_paths)
        raise SpecError(problem.message, key=where, hint=problem.hint) from None
    return LoadedSpec(spec, origin)


def default_output() -> str:
    """Return the folder of runs where neither the spec nor an option names one."""
    return os.environ.get("SUMGRAD_OUTPUT") or str(JobSpec.model_fields["output"].default)


def split_key(key: str) -> list[str | int]:
    """Split a dotted key into its parts.

    >>> split_key("model.layers[0].units")
    ['model', 'layers', 0, 'units']
    """
    return [int(index) if index else name for name, index in _PATH_PART.findall(key)]


def _read(name: str) -> tuple[str, str]:
    """Return the text and the origin of a spec."""
    path = Path(name)
    try:
        if not path.is_file() and name in example_names():
            return read_example(name), f"example {name}"
        if not name or (path.suffix not in (".yaml", ".yml") and not path.exists()):
            hint = did_you_mean(name, example_names())
            raise SpecError(f"no spec file and no shipped example is named '{name}'", hint=hint)
        return read_small_file(path, MAX_BYTES).decode("utf-8"), name
    except UnicodeDecodeError:
        problem = "not a text file in UTF-8"
    except OSError as error:
        suffix = "; that is not a job spec" if error.errno == errno.EFBIG else ""
        problem = f"cannot be read: {error.strerror}{suffix}"
    except ValueError as error:
        problem = f"cannot be read: {error}"
    raise SpecError(problem, key=name)


def _set_defaults_of_environment(value: dict[str, Any]) -> None:
    value.setdefault("output", default_output())
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    # The section is null if all its keys are commented out.
    tracking = {} if value.get("tracking") is None else value["tracking"]
    if uri and isinstance(tracking, dict):
        value["tracking"] = {"uri": uri} | tracking


def _override(value: dict[str, Any], item: str) -> KeyPath:
    """Set one ``key=value`` in a parsed spec, and return the path of the key."""
    key, equals, text = item.partition("=")
    parts = split_key(key.strip())
    if not equals or not parts:
        hint = "such as optimizer.eta=0.1"
        raise SpecError(f"'{item}' is not key=value", key="--set", hint=hint)
    parsed = parse_yaml(text, f"--set {key}").value
    here: Any = value
    for part, after in zip(parts, (*parts[1:], None), strict=True):
        if isinstance(part, int):
            if not isinstance(here, list) or part >= len(here):
                raise SpecError(f"there is no item [{part}]", key=f"--set {key}")
        elif not isinstance(here, dict):
            raise SpecError(f"there is no '{part}' below it", key=f"--set {key}")
        elif after is not None and here.get(part) is None:
            here[part] = [] if isinstance(after, int) else {}
        if after is not None:
            here = here[part]
    if parts[:-1] == ["optimizer"] and parts[-1] in _LEARNING_RATE:
        for name in _LEARNING_RATE:
            here.pop(name, None)
    here[parts[-1]] = parsed
    return tuple(parts)


def _location(path: KeyPath, tree: YamlTree, origin: str, set_paths: Sequence[KeyPath]) -> str:
    """Return where a key was given: on the command line, or in a line of the file."""
    key = dotted(path)
    for set_path in set_paths:
        is_below = path[: len(set_path)] == set_path
        is_above = set_path[: len(path)] == path and path not in tree.lines
        if is_below or is_above:
            return f"--set {key}"
    line = tree.line_of(path)
    where = f"{origin}, line {line}" if line is not None else origin
    return f"{where}: {key}" if key else where
