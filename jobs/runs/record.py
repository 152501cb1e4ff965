"""What a run's folder and its record have to be, whoever has had them in hand meanwhile.

Whatever is wrong is told when a run is opened, and by its field's name, and not where it is used.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.errors import SpecError

#: No record of ours is nested half as deeply; Python's own recursion ends at a thousand.
_MAX_DEPTH = 40
#: A part of a path that stays where it is put.
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
#: As `sumgrad.jobs.runs.directory.now` writes it: the order of the texts is that of the moments.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", re.ASCII)

_Rule = Callable[[Any], bool]


def check_record(record: Any) -> None:
    """Raise unless every field of a record is what its users take it for.

    Args:
        record: What ``run.json`` holds, as JSON has it. Fields that are missing or unknown are
            not looked for here.

    Raises:
        ValueError: Names the field.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no mapping")  # noqa: TRY004 - it is about the file
    for name, value in record.items():
        _expect_plain(value, name)
    _expect_fields(record, _RECORD)


def in_one_line(text: str) -> str:
    r"""A text for a person's terminal.

    >>> in_one_line("RuntimeError: it\n\x1b[2J  broke")
    'RuntimeError: it [2J broke'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _expect_fields(fields: Mapping[str, Any], rules: Mapping[str, _Rule], above: str = "") -> None:
    for name, is_sound in rules.items():
        if name in fields and not is_sound(fields[name]):
            raise ValueError(f"the field '{above}{name}' cannot be that")
    for name, inner in _INNER.items():
        if not above and isinstance(fields.get(name), dict):
            _expect_fields(fields[name], inner, f"{name}.")


def _expect_plain(value: Any, field: str) -> None:
    """Raise unless a value can be copied, written and printed: not too deep, of real characters."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        if not all(_is_encodable(item) for item in level):
            raise ValueError(f"the field '{field}' has a text that is no Unicode")
        level = [inner for item in level for inner in _inner(item)]
        if not level:
            return
    raise ValueError(f"the field '{field}' is nested too deeply")


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


def _is_encodable(value: Any) -> bool:
    """Whether it is anything but a text with half a character."""
    return not isinstance(value, str) or not any("\ud800" <= c <= "\udfff" for c in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _matches(pattern: re.Pattern[str]) -> _Rule:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _or_none(rule: _Rule) -> _Rule:
    return lambda value: value is None or rule(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_store(uri: Any) -> bool:
    """Whether a tracking URI is one that a spec's could have become; a file's path is absolute."""
    if not _is_line(uri):
        return False
    try:
        resolved = resolve_tracking_uri(uri, Path("/"))
    except SpecError:
        return False
    return not uri.startswith("sqlite:") or resolved == uri


def _are_datasets(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(dataset, dict)
        and dataset.keys() == _DATASET.keys()
        and all(is_sound(dataset[name]) for name, is_sound in _DATASET.items())
        for dataset in value
    )


_DATASET: Mapping[str, _Rule] = {
    "context": lambda value: value in ("training", "validation", "test"),
    "name": _is_line,
    "source": _is_text,
    "digest": _is_line,
    "rows": _is_count,
}
_INNER: Mapping[str, Mapping[str, _Rule]] = {
    "facts": {
        "name": _matches(_NAME),
        "experiment": _is_text,
        "spec": _is_mapping,
        "spec_yaml": _is_text,
        "datasets": _are_datasets,
        "tags": _are_texts,
        "folder": lambda value: _is_line(value) and Path(value).is_absolute(),
    },
    "end": {
        "status": lambda value: value in ("FINISHED", "FAILED", "KILLED"),
        "stop_reason": _is_text,
        "tags": _are_texts,
        "step": _is_count,
        "can_resume": _is_truth,
    },
}
_RECORD: Mapping[str, _Rule] = {
    "run_id": _matches(_ID),
    "key": _matches(_ID),
    "name": _matches(_NAME),
    "began": _matches(_MOMENT),
    "tracking_uri": _is_store,
    "facts": lambda value: isinstance(value, dict) and value.keys() == _INNER["facts"].keys(),
    "mlflow_run_id": _or_none(_is_line),
    "job": _or_none(_is_mapping),
    "end": _or_none(_is_mapping),
    "is_delivered": _is_truth,
    "is_model_logged": _is_truth,
}


def check_enclosed(folder: Path) -> None:
    """Raise if anything in a run's folder would have us read, write or remove what is outside.

    A run's lock is emptied, its curves are added to, its old checkpoints are removed and its model
    is copied into MLflow: behind a link each of them could be anything.

    Args:
        folder: Of the run; that itself may be a link.

    Raises:
        ValueError: Names what leads out, or is neither file nor folder.
    """
    root = folder.resolve()
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _expect_inside(Path(here, name), root)


def _expect_inside(place: Path, root: Path) -> None:
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return  # A run that goes on writes beside the place and renames.
    if stat.S_ISLNK(mode):
        try:
            leads_out = not place.resolve().is_relative_to(root)
        except (OSError, RuntimeError):
            leads_out = True  # In a circle.
        if leads_out:
            raise ValueError(f"the link {place.name} leads out of the run's folder")
    elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{place.name} is neither a file nor a folder")
