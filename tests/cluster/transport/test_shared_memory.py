"""Shared memory leaves nothing behind."""

import pytest

from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.transport import shared_memory
from tests.cluster.transport.descriptors import open_descriptors


@pytest.mark.parametrize("call", ["os.ftruncate", "mmap.mmap"])
def test_memory_that_cannot_be_allocated_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = open_descriptors()
    monkeypatch.setattr(f"sumgrad.cluster.transport.shared_memory.{call}", refuse)
    with pytest.raises(ClusterError, match="No space left"):
        shared_memory.create((3,), "float32")
    assert open_descriptors() == before
