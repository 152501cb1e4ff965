"""From a YAML file or a shipped example and ``--set`` to a validated `JobSpec`.

Every fault is one line: the file and line, the key, what is wrong with it, and the nearest valid
key or value.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.support.yaml import MAX_BYTES, YamlTree, parse_yaml
from sumgrad.model.validation import did_you_mean

#: Names the folder of the runs where neither spec nor option does.
OUTPUT_VARIABLE = "SUMGRAD_OUTPUT"
#: Keys that people know by another name elsewhere.
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
    "target": "data.label",
    "tracking_uri": "tracking.uri",
}

#: What is wrong, where pydantic's own words are a programmer's.
_WORDS: Mapping[str, str] = {
    "dict_type": "should be a mapping of keys to values",
    "float_type": "should be a number",
    "greater_than_equal": "should not be negative",
    "int_from_float": "should be a whole number",
    "int_type": "should be a whole number",
    "model_attributes_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
    "string_pattern_mismatch": "should have only letters, digits, dots, dashes and underscores, "
    "at most 100, and begin with a letter or a digit",
    "string_type": "should be a text",
    "too_short": "should have at least one item",
    "tuple_type": "should be a list",
}

#: An index of more digits than any list has items is not one: Python reads no number of thousands.
_PATH_PART = re.compile(r"([^.\[\]]+)|\[(\d{1,9})\]")


@dataclass(frozen=True)
class LoadedSpec:
    """A spec and where it came from.

    Attributes:
        spec: Validated, with every default filled in.
        origin: The file, or ``example NAME``.
        folder: The file's folder; None for a shipped example.
    """

    spec: JobSpec
    origin: str
    folder: Path | None


def example_names() -> list[str]:
    """The shipped examples."""
    folder = resources.files("sumgrad.jobs.spec") / "examples"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_example(name: str) -> str:
    """A shipped example's text."""
    return (resources.files("sumgrad.jobs.spec") / "examples" / f"{name}.yaml").read_text(
        encoding="utf-8"
    )


def load_spec(name: str, overrides: Sequence[str] = (), *, environment: bool = True) -> LoadedSpec:
    """Load and validate a spec.

    Args:
        name: A YAML file, or the name of a shipped example.
        overrides: ``key=value`` each, as in ``optimizer.eta=0.1`` or ``model.layers[0].units=32``.
        environment: Whether this machine's environment stands in for what the spec does not say;
            not for a job that runs elsewhere.

    Raises:
        SpecError: No such spec, not YAML, or keys and values that do not fit.
    """
    text, origin, folder = _read(name)
    tree = parse_yaml(text, origin)
    if not isinstance(tree.value, dict):
        raise SpecError("a job spec is a mapping of keys to values", key=origin)
    set_paths = [_override(tree.value, item) for item in overrides]
    if environment:
        _default_tracking(tree.value)
        _default_output(tree.value)
    try:
        spec = JobSpec.model_validate(tree.value)
    except ValidationError as error:
        raise _first_fault(error.errors(), tree, origin, set_paths) from None
    return LoadedSpec(spec, origin, folder)


def _read(name: str) -> tuple[str, str, Path | None]:
    path = Path(name)
    if not name:
        raise SpecError(
            "'' is no file and no shipped example", hint=did_you_mean(name, example_names())
        )
    try:
        if not path.is_file() and name in example_names():
            return read_example(name), f"example {name}", None
        if path.suffix not in (".yaml", ".yml") and not path.exists():
            hint = did_you_mean(name, example_names())
            raise SpecError(f"no spec file and no shipped example is named '{name}'", hint=hint)
        content = read_small_file(path, MAX_BYTES)
        return content.decode("utf-8"), name, path.resolve().parent
    except UnicodeDecodeError:
        raise SpecError("not a text file in UTF-8", key=name) from None
    except OSError as error:
        why = error.strerror
        if error.errno == errno.EFBIG:
            why = f"{why}; that is not a job spec"
        raise SpecError(f"cannot be read: {why}", key=name) from None
    except ValueError as error:
        raise SpecError(f"cannot be read: {error}", key=name) from None


def _default_tracking(value: dict[str, Any]) -> None:
    """MLflow's own environment variable stands in where the spec says nothing."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    tracking = value.setdefault("tracking", {})
    if uri and isinstance(tracking, dict):
        tracking.setdefault("uri", uri)


def _default_output(value: dict[str, Any]) -> None:
    """And one of ours for the folder of the runs."""
    value.setdefault("output", default_output())


def default_output() -> str:
    """The folder of the runs where neither spec nor option names one."""
    return os.environ.get(OUTPUT_VARIABLE) or str(JobSpec.model_fields["output"].default)


def split_key(key: str) -> list[str | int]:
    """The parts of a dotted key.

    >>> split_key("model.layers[0].units")
    ['model', 'layers', 0, 'units']
    """
    return [int(index) if index else name for name, index in _PATH_PART.findall(key)]


def _override(value: dict[str, Any], item: str) -> tuple[str | int, ...]:
    """Put one ``key=value`` in its place, and give the path of it."""
    key, equals, text = item.partition("=")
    parts = split_key(key.strip())
    if not equals or not parts:
        raise SpecError(f"'{item}' is not key=value", key="--set", hint="such as optimizer.eta=0.1")
    parsed = parse_yaml(text, f"--set {key}").value
    here: Any = value
    for part, after in pairwise(parts):
        here = _descend(here, part, [] if isinstance(after, int) else {}, key)
    last = parts[-1]
    if isinstance(last, int):
        _descend(here, last, None, key)
    elif not isinstance(here, dict):
        raise SpecError(f"there is no '{last}' below it", key=f"--set {key}")
    here[last] = parsed
    return tuple(parts)


def _descend(here: Any, part: str | int, empty: Any, key: str) -> Any:
    if isinstance(part, int):
        if not isinstance(here, list) or part >= len(here):
            raise SpecError(f"there is no item [{part}]", key=f"--set {key}")
        return here[part]
    if not isinstance(here, dict):
        raise SpecError(f"there is no '{part}' below it", key=f"--set {key}")
    if here.get(part) is None:
        here[part] = empty
    return here[part]


def _first_fault(
    faults: list[ErrorDetails], tree: YamlTree, origin: str, set_paths: list[tuple[str | int, ...]]
) -> SpecError:
    """The first fault as one line; union members that failed at the same place are one fault."""
    # An unknown key explains a missing one, so it comes first.
    faults = sorted(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    path = _path(faults[0])
    together = [fault for fault in faults if _path(fault) == path]
    places = {_path(fault) for fault in faults}
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    message, hint = _explain(together, path)
    return SpecError(message + more, key=_place(path, tree, origin, set_paths), hint=hint)


def _explain(faults: list[ErrorDetails], path: tuple[str | int, ...]) -> tuple[str, str]:
    kinds = {fault["type"] for fault in faults}
    if "extra_forbidden" in kinds:
        return "unknown key", _nearest_key(path)
    if "missing" in kinds:
        return "required, but not given", ""
    if "literal_error" in kinds and len(faults) == 1:
        expected = faults[0]["ctx"]["expected"]
        options = re.findall(r"'([^']*)'", expected)
        given = faults[0]["input"]
        return f"{given!r} is none of {expected}", did_you_mean(str(given), options)
    if "option" in kinds:
        option = next(fault for fault in faults if fault["type"] == "option")
        return option["msg"], option["ctx"]["hint"]
    texts = [_WORDS.get(fault["type"], fault["msg"]) for fault in faults]
    message = " or ".join(dict.fromkeys(texts)).replace("Input should be", "should be")
    given = faults[0]["input"]
    if given is None or isinstance(given, str | int | float):
        message = f"{'nothing' if given is None else repr(given)} {message}"
    return message, ""


def _path(fault: ErrorDetails) -> tuple[str | int, ...]:
    """Pydantic's location without the names of union members, which no spec has."""
    location = fault["loc"]
    if fault["type"] == "option" and fault["ctx"]["key"]:
        location = (*location, *fault["ctx"]["key"].split("."))
    here: Any = JobSpec
    path: list[str | int] = []
    for part in location:
        if isinstance(part, int):
            path.append(part)
            here = _item_section(here)
        elif isinstance(here, type) and issubclass(here, BaseModel):
            is_unknown = fault["type"] == "extra_forbidden" and part == location[-1]
            if part not in here.model_fields and not is_unknown:
                continue
            path.append(part)
            field = here.model_fields.get(part)
            here = field.annotation if field else None
            here = own_section(here) or here
    return tuple(path)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def own_section(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds itself, also when it may be null; not that of a list's items."""
    if getattr(annotation, "__origin__", None) in (tuple, list):
        return None
    return next(_sections(annotation), None)


def _item_section(annotation: Any) -> type[BaseModel] | None:
    return next(_sections(annotation), None)


def all_keys(section: type[BaseModel] = JobSpec, prefix: str = "") -> list[str]:
    """Every dotted key that a spec can have; list items are written ``[]``."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(f"{prefix}{name}")
        inner = next(_sections(field.annotation), None)
        if inner is not None:
            below = "[]." if own_section(field.annotation) is None else "."
            keys.extend(all_keys(inner, f"{prefix}{name}{below}"))
    return keys


def _nearest_key(path: tuple[str | int, ...]) -> str:
    """The valid key that an unknown one most likely stands for."""
    last = str(path[-1])
    if last in SYNONYMS:
        return f"did you mean '{SYNONYMS[last]}'?"
    keys = all_keys()
    beside = _dotted(path[:-1])
    prefix = re.sub(r"\[\d+\]", "[]", beside) + "." if beside else ""
    siblings = [key[len(prefix) :] for key in keys if key.startswith(prefix)]
    siblings = [key for key in siblings if "." not in key and "[" not in key]
    if close := difflib.get_close_matches(last, siblings, n=1):
        return f"did you mean '{beside}.{close[0]}'?".replace("'.", "'")
    elsewhere = [key for key in keys if re.split(r"[.\]]", key)[-1] == last]
    if elsewhere:
        return f"did you mean '{elsewhere[0]}'?"
    return f"known here: {', '.join(siblings)}"


def _dotted(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _place(
    path: tuple[str | int, ...],
    tree: YamlTree,
    origin: str,
    set_paths: list[tuple[str | int, ...]],
) -> str:
    key = _dotted(path)
    for set_path in set_paths:
        below = path[: len(set_path)] == set_path
        above = set_path[: len(path)] == path and path not in tree.lines
        if below or above:
            return f"--set {key}"
    for length in range(len(path), 0, -1):
        line = tree.lines.get(path[:length])
        if line is not None:
            return f"{origin}, line {line}: {key}"
    return f"{origin}: {key}" if key else origin
