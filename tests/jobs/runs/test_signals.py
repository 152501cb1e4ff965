"""The first signal is noted, the second ends the process, and handlers are put back."""

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
def test_a_signal_is_noted_and_a_second_one_ends_it(
    number: signal.Signals, reason: StopReason, code: int
) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.requested() is None
        os.kill(os.getpid(), number)
        assert stop.requested() is reason
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.code == code
    assert signal.getsignal(number) is before
