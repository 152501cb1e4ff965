"""A job that waits for a cluster's CPUs logs it, and ends on a signal."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from sumgrad.cluster.ray_backend.session import ray_session
from tests.cluster.ray_nodes import ray_cluster
from tests.integration.command_line import Finished, Folder

pytestmark = pytest.mark.ray


class Other:
    """Another program's actor."""

    def is_running(self) -> bool:
        return True


@pytest.fixture(scope="module")
def busy_cluster() -> Iterator[str]:
    """The address of a cluster of two CPUs, one of which is taken."""
    with ray_cluster(2) as cluster, ray_session(cluster.address, 1):
        other: Any = ray.remote(Other).options(num_cpus=1).remote()
        assert ray.get(other.is_running.remote())
        yield cluster.address


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_ends_the_wait_for_cpus(
    folder: Folder, busy_cluster: str, number: signal.Signals, code: int, reason: str
) -> None:
    cluster = ("--set", f"cluster.address={busy_cluster}", "--set", "cluster.workers=2")
    process = folder.start("train", "flowers.yaml", *cluster)
    assert process.stdout is not None
    while "waiting for 2 free CPUs" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    done = Finished(process.returncode, out, err)
    assert done.code == code, err
    assert f"the run was {reason}" in done.error
    run = folder.mlflow_run()
    assert run.info.status == "KILLED"
    assert run.data.tags["sumgrad.stop_reason"] == reason
