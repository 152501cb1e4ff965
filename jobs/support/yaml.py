"""Parse YAML into plain values with the line of every key; safe for any input.

It is stricter than PyYAML: duplicate keys are refused, the expansion of aliases is limited, and
plain scalars follow YAML 1.2.
"""

import re
from typing import Any, ClassVar, NamedTuple

import yaml

from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.support.validation import KeyPath

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 40
_TOO_LARGE = "nested too deeply or too large; that is not a job spec"

#: PyYAML's tags of plain values.
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
)


class _Loader(yaml.SafeLoader):
    """A SafeLoader that reads scalars as YAML 1.2 does: ``no`` is a string, ``1e-3`` a number.

    It limits nodes while they are composed, because composing the half million nodes of a 1 MiB
    document takes half a minute, and deep nesting exceeds Python's recursion limit.
    """

    # PyYAML keeps resolvers in this attribute, and copies it when a subclass adds one.
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.lines: dict[KeyPath, int] = {}
        self._source = source
        self._composed = self._depth = self._built = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node, or raise if the document is too large or nested too deeply."""
        self._composed += 1
        self._depth += 1
        if self._composed > 2 * MAX_NODES or self._depth > MAX_DEPTH + 2:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise self._error(mark, _TOO_LARGE)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def build(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        """Return the value of a node, and record its lines; nodes of aliases count each time."""
        self._built += 1
        if self._built > MAX_NODES or len(path) > MAX_DEPTH:
            raise self._error(node.start_mark, _TOO_LARGE)
        if node.tag not in _PLAIN_TAGS:
            raise self._error(node.start_mark, f"the tag {node.tag} is not supported")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self.construct_object(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node.start_mark, "a key must be a plain name")
            key = str(key_node.value)
            if key in result:
                raise self._error(key_node.start_mark, f"the key '{key}' is given twice")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.build(value_node, (*path, key))
        return result

    def _error(self, mark: yaml.Mark, message: str) -> SpecError:
        return SpecError(message, key=f"{self._source}, line {mark.line + 1}")


_FLOAT = r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
# The core schema of YAML 1.2. Every other scalar is a string.
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?\d+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _tag, _whole = f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(_tag, _whole, _first)

# PyYAML reads 010 as an octal number.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


class YamlTree(NamedTuple):
    """A parsed document, and the line of each key or item, from 1, by its path."""

    value: Any
    lines: dict[KeyPath, int]

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a key, or of the innermost section around it that has a line."""
        lines = (self.lines.get(path[:length]) for length in range(len(path), 0, -1))
        return next((line for line in lines if line is not None), None)


def parse_yaml(text: str, source: str) -> YamlTree:
    """Parse one document; raise `SpecError` with its source and line if that is not possible."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise SpecError(f"larger than {MAX_BYTES >> 20} MiB; that is not a job spec", key=source)
    try:
        loader = _Loader(text, source)
        try:
            node = loader.get_single_node()
            return YamlTree(None if node is None else loader.build(node), loader.lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise SpecError(f"not YAML: {error.problem or error.context}", key=where) from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        first_line = str(error).partition("\n")[0]
        raise SpecError(f"not YAML: {first_line}", key=source) from None
