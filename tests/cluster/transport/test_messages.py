"""Messages as JSON: what was sent arrives, and anything else is rejected."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumgrad.cluster.errors import ProtocolError
from sumgrad.cluster.transport.messages import (
    AttachBuffer,
    Compute,
    Done,
    Hello,
    Message,
    check_type,
    decode,
    encode,
)

MESSAGES: list[Message] = [
    Hello(1, 2, 1, {"machine": "x86_64"}),
    AttachBuffer(3),
    Compute(7, "gradient", "train", 1, 2, 3, 4, 0),
    Done(7, [[1, 0, 0.1, 0, 5, None], [0, 2, float("inf"), 1, 2, 3]]),  # type: ignore[list-item]
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


@settings(derandomize=True, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_other_bytes_are_rejected(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@pytest.mark.parametrize("data", [b'["Hello"]', b'["os.system", "ls"]', b"[]", b"{}", b"[[]]"])
def test_no_other_type_is_constructed(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_another_type_than_expected_is_rejected() -> None:
    with pytest.raises(ProtocolError, match="expected Hello, got AttachBuffer"):
        check_type(Hello, AttachBuffer(1))
