"""What is wrong with the file of contexts, in words for who wrote it."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sumgrad.jobs.errors import ClusterConfigError
from sumgrad.jobs.support.yaml import YamlTree
from sumgrad.model.validation import did_you_mean

#: Where pydantic's own words are a programmer's.
_WORDS: Mapping[str, str] = {
    "dict_type": "should be names with what belongs to each",
    "mapping_type": "should be names with what belongs to each",
    "missing": "is missing",
    "model_type": "should be keys and values",
    "path_type": "should be the path of a file",
    "string_type": "should be a text",
}
_NAME_WORDS = (
    "cannot be a cluster's name: letters, digits, dashes, dots and underscores, at most 63"
)
#: What to do where the fault itself does not say it.
MEND = "write it so, or remove the file and 'sumgrad cluster add NAME URL' anew"
#: How pydantic says that a mapping's key is meant, and not its value.
_KEY = "[key]"


def context_error(
    error: ValidationError, path: Path, tree: YamlTree, section: type[BaseModel]
) -> ClusterConfigError:
    """The error that names file, line and key, what is wrong there, and what to do.

    Args:
        error: Pydantic's.
        path: The file.
        tree: What is in it.
        section: What a context can have.
    """
    # An unknown key explains a missing one.
    fault = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    steps = tuple(step for step in fault["loc"] if step != _KEY)
    what, hint = _explained(fault, section)
    return ClusterConfigError(f"{place(path, tree, steps)} {what}", hint=hint)


def place(path: Path, tree: YamlTree, steps: tuple[str | int, ...]) -> str:
    """A file, a line in it if that is known, and a key."""
    line = next(
        (found for n in range(len(steps), 0, -1) if (found := tree.lines.get(steps[:n]))), None
    )
    where = f"{path}, line {line}:" if line else f"{path}:"
    return f"{where} {'.'.join(map(str, steps)) or 'what it holds'}"


def _explained(fault: ErrorDetails, section: type[BaseModel]) -> tuple[str, str]:
    """What is wrong, and what to do."""
    if fault["type"] == "extra_forbidden":
        known = section.model_fields if len(fault["loc"]) > 1 else ("current", "clusters")
        return "is no key that is known there", did_you_mean(str(fault["loc"][-1]), known)
    if fault["loc"][-1:] == (_KEY,):
        return _NAME_WORDS, MEND
    return _WORDS.get(fault["type"], fault["msg"]), MEND
