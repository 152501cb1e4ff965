"""Describe validation errors of pydantic: the key, what is wrong, and the nearest valid one."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from sumgrad.model.validation import did_you_mean

#: Keys and list indices from the root of a document.
KeyPath = tuple[str | int, ...]

#: Replaces pydantic's messages that are meant for programmers.
_MESSAGES: Mapping[str, str] = {
    "dict_type": "should be a mapping of keys to values",
    "float_type": "should be a number",
    "int_from_float": "should be an integer",
    "int_type": "should be an integer",
    "mapping_type": "should be a mapping of keys to values",
    "missing": "required, but not given",
    "model_attributes_type": "should be a mapping of keys to values",
    "model_type": "should be a mapping of keys to values",
    "path_type": "should be the path of a file",
    "string_type": "should be a string",
    "too_short": "should have at least one item",
    "tuple_type": "should be a list",
}
#: Pydantic's mark for the key, not the value, of a mapping's entry.
_KEY_MARK = "[key]"


@dataclass(frozen=True)
class Problem:
    """One problem of a document: the key, what is wrong, and how to fix it."""

    path: KeyPath
    message: str
    hint: str = ""

    def __str__(self) -> str:
        key = dotted(self.path)
        return f"{key}: {self.message}" if key else self.message


def first_problem(
    error: ValidationError, model: type[BaseModel], synonyms: Mapping[str, str] | None = None
) -> Problem:
    """Return the first problem of the model's validation, and count the others in its message.

    The synonyms are dotted keys and values to suggest for names that are used elsewhere.
    """
    # An unknown key explains a missing one, so it comes first.
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    paths = [_path(detail, model) for detail in details]
    path = paths[0]
    # The alternatives of a union fail at the same path: together they are one problem.
    alternatives = [detail for detail, found in zip(details, paths, strict=True) if found == path]
    message, hint = _explain(alternatives, path, model, synonyms or {})
    others = len(set(paths)) - 1
    return Problem(path, f"{message} (and {others} more)" if others else message, hint)


def problem_error(message: str, hint: str = "", key: str = "") -> PydanticCustomError:
    """Return the error that a validator raises to have its message and hint reported unchanged.

    A validator of a whole section names the dotted key below it.
    """
    context = {"message": message, "hint": hint, "key": key}
    return PydanticCustomError("problem", "{message}", context)


def dotted(path: KeyPath) -> str:
    """Return a path as a dotted key.

    >>> dotted(("model", "layers", 0, "units"))
    'model.layers[0].units'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a key holds itself, also an optional one; not that of list items."""
    is_container = get_origin(annotation) in (tuple, list, dict)
    return None if is_container else next(_sections(annotation), None)


def all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key that a document can have; list items are written ``[]``."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        inner = next(_sections(field.annotation), None)
        if inner is not None:
            below = "." if section_of(field.annotation) else "[]."
            keys.extend(all_keys(inner, f"{prefix}{name}{below}"))
    return keys


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if _is_section(annotation):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by their names, and by the other names that they accept."""
    fields = dict(section.model_fields)
    for field in section.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            fields |= dict.fromkeys(map(str, field.validation_alias.choices), field)
    return fields


def _below(annotation: Any, part: str | int) -> Any:
    """Return the annotation of a key or an item; a section instead of the union that holds it."""
    if isinstance(part, int) or not _is_section(annotation):
        return next(_sections(annotation), None)
    field = _fields(annotation).get(str(part))
    return field and (section_of(field.annotation) or field.annotation)


def _path(detail: ErrorDetails, model: type[BaseModel]) -> KeyPath:
    """Return pydantic's location without the names of a union's alternatives."""
    location: KeyPath = detail["loc"]
    if detail["type"] == "problem" and detail["ctx"]["key"]:
        location = (*location, *detail["ctx"]["key"].split("."))
    here: Any = model
    path: KeyPath = ()
    for index, part in enumerate(location):
        is_key = isinstance(part, int)
        if _is_section(here):
            is_unknown = detail["type"] == "extra_forbidden" and index == len(location) - 1
            is_key = is_key or is_unknown or str(part) in _fields(here)
        elif get_origin(here) is dict:
            is_key = part != _KEY_MARK
        if is_key:
            path, here = (*path, part), _below(here, part)
    return path


def _explain(
    details: list[ErrorDetails], path: KeyPath, model: type[BaseModel], synonyms: Mapping[str, str]
) -> tuple[str, str]:
    """Return message and hint for the errors at one path."""
    by_type = {detail["type"]: detail for detail in details}
    if "extra_forbidden" in by_type:
        return "unknown key", _nearest_key(path, model, synonyms)
    if "problem" in by_type:
        context = by_type["problem"]["ctx"]
        return context["message"], context["hint"]
    given = details[0]["input"]
    if "literal_error" in by_type and len(details) == 1:
        expected = details[0]["ctx"]["expected"]
        options = re.findall(r"'([^']*)'", expected)
        hint = did_you_mean(synonyms.get(str(given), str(given)), options)
        return f"should be {'one of ' * (len(options) > 1)}{expected}, not {given!r}", hint
    messages = [_MESSAGES.get(detail["type"], detail["msg"]) for detail in details]
    messages = [message.replace("greater than or equal to 0", "at least 0") for message in messages]
    message = " or ".join(dict.fromkeys(messages)).replace("Input should be", "should be")
    if "missing" not in by_type and (given is None or isinstance(given, str | int | float)):
        message = f"{'nothing' if given is None else repr(given)} {message}"
    return message, ""


def _nearest_key(path: KeyPath, model: type[BaseModel], synonyms: Mapping[str, str]) -> str:
    """Return a hint that names the valid key which an unknown one most likely stands for."""
    last = str(path[-1])
    keys = all_keys(model)
    if synonyms.get(last) in keys:
        return f"did you mean '{synonyms[last]}'?"
    beside = dotted(path[:-1])
    section: Any = model
    for part in path[:-1]:
        section = _below(section, part)
    siblings = list(section.model_fields) if _is_section(section) else []
    if close := difflib.get_close_matches(last, siblings, n=1):
        return f"did you mean '{f'{beside}.{close[0]}'.removeprefix('.')}'?"
    for key in keys:
        if re.split(r"[.\]]", key)[-1] == last:
            return f"did you mean '{key}'?"
    return f"known here: {', '.join(siblings)}"
