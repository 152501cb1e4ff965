"""What driver and workers tell each other: small, and as JSON, so that reading it runs no code."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from sumgrad.cluster.errors import ProtocolError
from sumgrad.cluster.planning.reduction import Node, PartialSum


@dataclass(frozen=True)
class Hello:
    """A worker's first words: who it is, and the arithmetic of its process.

    Attributes:
        lanes: Threads of it that compute.
    """

    worker: int
    pid: int
    lanes: int
    machine: str
    numpy: str
    blas: str
    canary: str


@dataclass(frozen=True)
class Welcome:
    """The driver's answer, with the descriptor of the claims' memory.

    Attributes:
        claims: Workers that the claims are for.
    """

    claims: int


@dataclass(frozen=True)
class AttachBuffer:
    """A vector in shared memory, whose descriptor comes along.

    Attributes:
        vector: Its number, among those of the sender.
    """

    vector: int


@dataclass(frozen=True)
class Compute:
    """Sum these microbatches.

    Attributes:
        step_id: Of the step, over the whole run; an answer to an earlier one is stale.
        vector: The driver's vector that holds the parameters.
    """

    step_id: int
    kind: Literal["gradient", "evaluation"]
    source: str
    epoch: int
    step: int
    start: int
    stop: int
    vector: int


@dataclass(frozen=True)
class Done:
    """Sums over microbatches.

    Attributes:
        nodes: Each as level, index, divergence, correct, count, and the worker's vector that
            holds the gradient, or None.
    """

    step_id: int
    nodes: Sequence[tuple[int, int, float, int, int, int | None]]


@dataclass(frozen=True)
class Failed:
    """A microbatch's computation raised.

    Attributes:
        rows: See `sumgrad.cluster.errors.MicrobatchFailed`.
    """

    step_id: int
    microbatch: int
    cause: str
    rows: Sequence[int]


Message = Hello | Welcome | AttachBuffer | Compute | Done | Failed

_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Hello, Welcome, AttachBuffer, Compute, Done, Failed)
}
_FIELDS = {name: len(fields(kind)) for name, kind in _KINDS.items()}
M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return json.dumps([type(message).__name__, *vars(message).values()]).encode()


def decode(data: bytes) -> Message:
    """The message that `encode` wrote.

    Raises:
        ProtocolError: It is none.
    """
    try:
        name, *values = json.loads(data)
        kind = _KINDS[name]
        if len(values) != _FIELDS[name]:
            raise ProtocolError(f"a message of kind {name} with {len(values)} fields")
        message: Any = kind(*values)
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"not a message: {data[:80]!r}") from error
    return message  # type: ignore[no-any-return]


def expect(kind: type[M], message: Message) -> M:
    """The message, if it is of this kind.

    Raises:
        ProtocolError: It is another.
    """
    if not isinstance(message, kind):
        raise ProtocolError(f"expected {kind.__name__}, got {type(message).__name__}")
    return message


def describe(node: Node, vector: int | None) -> tuple[int, int, float, int, int, int | None]:
    """A node as `Done` carries it."""
    total = node.sum
    return (node.level, node.index, total.divergence, total.correct, total.count, vector)


def node_of(described: Sequence[Any], vectors: "dict[int, Any]") -> Node:
    """The node that `describe` described, its gradient from the sender's vectors."""
    level, index, divergence, correct, count, vector = described
    gradient = None if vector is None else vectors[vector]
    return Node(level, index, PartialSum(gradient, divergence, correct, count))
