"""The first signal requests a stop, a second exits, and the handlers are restored."""

import os
import signal

import pytest

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.runs.signals import StopRequest


@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [
        (signal.SIGINT, StopReason.INTERRUPTED, 130),
        (signal.SIGTERM, StopReason.TERMINATED, 143),
    ],
)
def test_the_first_signal_requests_a_stop_and_the_second_exits(
    number: signal.Signals, reason: StopReason, code: int
) -> None:
    before = signal.getsignal(number)
    assert StopRequest().reason is None
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.reason is reason
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.code == code
    assert signal.getsignal(number) is before
