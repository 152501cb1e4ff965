"""Messages between the driver and its workers, encoded as JSON so that decoding runs no code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from sumgrad.cluster.errors import ProtocolError
from sumgrad.cluster.planning.reduction import Node, PartialSum
from sumgrad.model.validation import Array

#: A node's level, index, divergence, correct, count, and the sender's buffer with its gradient.
EncodedNode = tuple[int, int, float, int, int, int | None]


@dataclass(frozen=True)
class Hello:
    """A worker's first message: its index, its process, its threads and its arithmetic."""

    worker: int
    pid: int
    threads: int
    fingerprint: Mapping[str, str]  #: The fields of `Fingerprint`.


@dataclass(frozen=True)
class Welcome:
    """The driver's reply to `Hello`.

    On one machine the descriptors of the claim table and of the driver's vectors come with it.
    """

    workers: int  #: Rows of the claim table.
    vectors: int


@dataclass(frozen=True)
class AttachBuffer:
    """A worker's vector in shared memory, whose descriptor comes with the message."""

    buffer: int  #: Its index among the worker's buffers.


@dataclass(frozen=True)
class Compute:
    """A request to sum the microbatches from `start` to `stop`."""

    step_id: int  #: Sequence number of the reduction; replies to earlier ones are stale.
    kind: Literal["gradient", "evaluation"]
    source: str
    epoch: int
    step: int
    start: int
    stop: int
    buffer: int  #: The driver's buffer with the parameters.


@dataclass(frozen=True)
class Sums:
    """The sums of a `Done`, with their gradients."""

    step_id: int
    nodes: Sequence[Node]


@dataclass(frozen=True)
class Done:
    """Sums over microbatches."""

    step_id: int
    nodes: Sequence[EncodedNode]

    def decode(self, buffers: Mapping[int, Array]) -> Sums:
        """Return the sums, with the sender's gradients; invalid nodes are a `ProtocolError`."""
        nodes = []
        try:
            for level, index, divergence, correct, count, buffer in self.nodes:
                gradient = None if buffer is None else buffers[buffer]
                nodes.append(Node(level, index, PartialSum(gradient, divergence, correct, count)))
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"sums that cannot be read: {self.nodes!r:.80}") from error
        return Sums(self.step_id, nodes)


@dataclass(frozen=True)
class Failed:
    """An exception in a microbatch, with the source's rows that caused it."""

    step_id: int
    microbatch: int
    cause: str
    rows: Sequence[int]


Message = Hello | Welcome | AttachBuffer | Compute | Done | Failed

_TYPES: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}
M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """Return a message as bytes."""
    return json.dumps([type(message).__name__, *vars(message).values()]).encode()


def decode(data: bytes) -> Message:
    """Return the message that `encode` wrote; other bytes raise `ProtocolError`."""
    try:
        name, *values = json.loads(data)
        # No field has a default, so any other number of values is a TypeError.
        kind: Any = _TYPES[name]
        message: Message = kind(*values)
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"not a message: {data[:80]!r}") from error
    return message


def check_type(kind: type[M], message: Message) -> M:
    """Return the message if it is of this type, else raise `ProtocolError`."""
    if not isinstance(message, kind):
        raise ProtocolError(f"expected {kind.__name__}, got {type(message).__name__}")
    return message


def encode_node(node: Node, buffer: int | None) -> EncodedNode:
    """Return a node as `Done` carries it, with the buffer that has its gradient."""
    total = node.sum
    return (node.level, node.index, total.divergence, total.correct, total.count, buffer)
