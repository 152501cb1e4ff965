"""Describe validation errors of pydantic: the key, what is wrong, and the nearest valid one."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from sumgrad.model.validation import did_you_mean

KeyPath = tuple[str | int, ...]  #: Keys and list indices from the root of a document.

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
    error: ValidationError,
    model: type[BaseModel],
    document: object,
    synonyms: Mapping[str, str] = MappingProxyType({}),
) -> Problem:
    """Return the first problem of a document that the model refuses; its message counts the others.

    The synonyms are dotted keys and values to suggest for names that are used elsewhere.
    """
    # An unknown key explains a missing one, so it comes first.
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    paths = [_path(detail, document) for detail in details]
    path = paths[0]
    # The alternatives of a union fail at the same path: together they are one problem.
    alternatives = [detail for detail, found in zip(details, paths, strict=True) if found == path]
    message, hint = _explain(alternatives, path, model, synonyms)
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
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _path(detail: ErrorDetails, document: object) -> KeyPath:
    """Return pydantic's location without what is not in the document: the alternatives of unions.

    Pydantic also marks a mapping's key, as opposed to the value, by one more part.
    """
    here: Any = document
    path: KeyPath = ()
    for part in detail["loc"]:
        is_item = isinstance(here, list) and isinstance(part, int)
        if is_item or (isinstance(here, Mapping) and part in here):
            path, here = (*path, part), here[part]
    if detail["type"] == "missing":
        path = (*path, detail["loc"][-1])
    if detail["type"] == "problem" and detail["ctx"]["key"]:
        path = (*path, *detail["ctx"]["key"].split("."))
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
    section = model
    for part in path[:-1]:
        field = section.model_fields.get(str(part))
        # Indices and the keys of mappings lead to no other section.
        section = (field and next(_sections(field.annotation), None)) or section
    siblings = list(section.model_fields)
    if close := difflib.get_close_matches(last, siblings, n=1):
        return f"did you mean '{dotted((*path[:-1], close[0]))}'?"
    for key in keys:
        if re.split(r"[.\]]", key)[-1] == last:
            return f"did you mean '{key}'?"
    return f"known here: {', '.join(siblings)}"
