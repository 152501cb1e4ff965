"""Parse YAML into plain values with the line of every key; safe for any input.

It is stricter than PyYAML: duplicate keys are refused, the expansion of aliases is limited, and
plain scalars follow YAML 1.2.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.support.validation import KeyPath

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 40

#: PyYAML's tags of plain values.
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
)


class _Loader(yaml.SafeLoader):
    """A SafeLoader that reads scalars as YAML 1.2 does: ``no`` is a text, ``1e-3`` a number.

    It limits nodes while they are composed, because composing the half million nodes of a 1 MiB
    document takes half a minute, and deep nesting exceeds Python's recursion limit.
    """

    # PyYAML keeps resolvers in this attribute, and copies it when a subclass adds one.
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self._source = source
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node, or raise if the document is too large or nested too deeply."""
        self._nodes += 1
        self._depth += 1
        if self._nodes > 2 * MAX_NODES or self._depth > MAX_DEPTH + 2:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _too_large(mark, self._source)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


# The core schema of YAML 1.2. Every other scalar is a text.
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?\d+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first
    )

# PyYAML reads 010 as an octal number.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


@dataclass
class YamlTree:
    """A parsed document.

    Attributes:
        value: Dictionaries, lists and scalars.
        lines: The line of each key or item, from 1, by its path.
    """

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a key, or of the innermost section around it that has a line."""
        lines = (self.lines.get(path[:length]) for length in range(len(path), 0, -1))
        return next((line for line in lines if line is not None), None)


def parse_yaml(text: str, source: str) -> YamlTree:
    """Parse one document.

    Args:
        text: The document.
        source: Name of the file, for messages.

    Raises:
        SpecError: The document is not YAML, too large, or has a duplicate key; names the line.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise SpecError(f"larger than {MAX_BYTES >> 20} MiB; that is not a job spec", key=source)
    try:
        loader = _Loader(text, source)
        try:
            node = loader.get_single_node()
            return _Builder(loader, source).build(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise SpecError(f"not YAML: {error.problem or error.context}", key=where) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        first_line = str(error).partition("\n")[0]
        raise SpecError(f"not YAML: {first_line}", key=source) from None


def _error_at(mark: yaml.Mark, source: str, message: str) -> SpecError:
    return SpecError(message, key=f"{source}, line {mark.line + 1}")


def _too_large(mark: yaml.Mark, source: str) -> SpecError:
    return _error_at(mark, source, "nested too deeply or too large; that is not a job spec")


class _Builder:
    """Converts nodes to values, and counts them with aliases expanded."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self._loader = loader
        self._source = source
        self._nodes = 0
        self._lines: dict[KeyPath, int] = {}

    def build(self, node: yaml.Node | None) -> YamlTree:
        value = None if node is None else self._value(node, ())
        return YamlTree(value, self._lines)

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise _too_large(node.start_mark, self._source)
        if node.tag not in _PLAIN_TAGS:
            raise self._error(node, f"the tag {node.tag} is not supported")
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be a plain name")
            key = str(key_node.value)
            if key in result:
                raise self._error(key_node, f"the key '{key}' is given twice")
            self._lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self._value(value_node, (*path, key))
        return result

    def _error(self, node: yaml.Node, message: str) -> SpecError:
        return _error_at(node.start_mark, self._source, message)
