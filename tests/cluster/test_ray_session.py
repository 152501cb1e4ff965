"""Addresses that cannot be a cluster are told at once; Ray's signal handlers do not outlast it."""

import os
import signal
import socket
import sys

import pytest

from cluster.errors import ClusterUnreachable
from cluster.ray_session import own_termination, ray_session


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


def exit_as_ray_does() -> None:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))


def test_termination_while_ray_starts_has_the_exit_code_of_termination() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminated() -> None:
        with own_termination():
            exit_as_ray_does()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        terminated()
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_that_ray_installs_are_taken_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with own_termination():
        exit_as_ray_does()
    assert signal.getsignal(signal.SIGTERM) is before
