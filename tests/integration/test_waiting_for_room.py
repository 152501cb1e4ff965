"""A job that waits for a cluster's CPUs says so, and ends as it is told to."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from sumgrad.cluster.ray_backend.session import ray_session
from tests.integration.command_line import Finished, Folder
from tests.integration.test_endings import one_line, only_run

pytestmark = pytest.mark.ray


class Other:
    """Somebody else's actor."""

    def is_there(self) -> bool:
        return True


@pytest.fixture
def busy_cluster() -> Iterator[str]:
    """The address of a cluster of two CPUs, one of which is taken."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    try:
        with ray_session(cluster.address, 1):
            other: Any = ray.remote(Other).options(num_cpus=1).remote()
            assert ray.get(other.is_there.remote())
            yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_while_it_waits_for_cpus(
    folder: Folder, busy_cluster: str, number: signal.Signals, code: int, reason: str
) -> None:
    place = ("--set", f"cluster.address={busy_cluster}", "--set", "cluster.workers=2")
    process = folder.start("train", "flowers.yaml", *place)
    assert process.stdout is not None
    while "waiting for 2 free CPUs" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    done = Finished(process.returncode, out, err)
    assert done.code == code, err
    assert f"the run was {reason}" in one_line(done)
    run = only_run(folder)
    assert run.info.status == "KILLED"
    assert run.data.tags["sumgrad.stop_reason"] == reason
