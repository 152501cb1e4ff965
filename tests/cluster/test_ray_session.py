"""Addresses that cannot be a cluster are told at once, without starting Ray."""

import socket

import pytest

from cluster.errors import ClusterUnreachable
from cluster.ray_session import ray_session


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "Ray Client addresses"),
        ("somewhere", "not inline, local, auto or host:port"),
        ("head:port", "not inline, local, auto or host:port"),
        ("127.0.0.1:99999999", "no Ray cluster answers"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, message: str) -> None:
    with pytest.raises(ClusterUnreachable, match=message), ray_session(address, 1):
        pass


@pytest.mark.timeout(60)
def test_a_cluster_that_does_not_answer_is_told_within_seconds() -> None:
    with (
        pytest.raises(ClusterUnreachable, match="no Ray cluster answers"),
        ray_session(f"127.0.0.1:{free_port()}", 1),
    ):
        pass
