"""One worker process, message by message."""

from contextlib import closing

import pytest

from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import Compute
from sumgrad.cluster.workers.worker_process import Session
from tests.cluster.small_job import SmallJob
from tests.cluster.transport.test_connection import connect_by_tcp


def test_after_stolen_microbatches_the_rows_of_the_own_share_are_prefetched(
    small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step starts with the worker's own share again."""
    driver, worker = map(Connection, connect_by_tcp())
    with closing(driver), closing(worker):
        session = Session(worker, 0, small_job.workload, 1)
        prefetched: list[tuple[Task, int]] = []
        monkeypatch.setattr(session._worker, "prefetch", lambda *next_: prefetched.append(next_))
        for step_id, step, start, stop in ((7, 0, 0, 2), (7, 0, 3, 4), (8, 1, 2, 3)):
            request = Compute(step_id, "gradient", "train", 1, step, start, stop, 0)
            driver.send(request, arrays=[small_job.W])
            session.handle(worker.receive())
    second, third = Task("gradient", "train", 1, 1), Task("gradient", "train", 1, 2)
    assert prefetched == [(second, 0), (second, 0), (third, 2)]
