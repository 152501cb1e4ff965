"""Every declared error survives pickling with its facts, has a hint and an exit code."""

import pickle
from collections.abc import Iterator

import pytest

import sumgrad.cluster.errors
import sumgrad.jobs.errors
from sumgrad.model.errors import SumgradError

MADE: dict[str, SumgradError] = {
    "WorkerLost": sumgrad.cluster.errors.WorkerLost(2, "starting", hint="look"),
    "MicrobatchFailed": sumgrad.cluster.errors.MicrobatchFailed(
        1, 4, "summing", "MemoryError: none left", "train", [7]
    ),
    "Diverged": sumgrad.cluster.errors.Diverged(3, 40, "the loss", "eta is large", hint="lower it"),
    "DataError": sumgrad.jobs.errors.DataError(
        "is null", file="a.csv", column="x", row=3, hint="fill"
    ),
    "SpecError": sumgrad.jobs.errors.SpecError("unknown key", key="job.yaml, line 3: etaa"),
    "Interrupted": sumgrad.jobs.errors.Interrupted("SIGTERM", 143),
}


def kinds(root: type[SumgradError] = SumgradError) -> Iterator[type[SumgradError]]:
    """The whole tree, without what other tests derive from it."""
    if not root.__module__.startswith("tests."):
        yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_it_survives_pickling_with_its_facts(kind: type[SumgradError]) -> None:
    error = MADE.get(kind.__name__) or kind("what happened", hint="what to do")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
    assert again.exit_code == error.exit_code


def test_facts_stand_in_the_message() -> None:
    assert str(MADE["DataError"]) == "a.csv, column 'x', row 3: is null"
    assert str(MADE["WorkerLost"]) == "worker 2 was lost while starting"
    assert "microbatch 4" in str(MADE["MicrobatchFailed"])
    assert "epoch 3, step 40" in str(MADE["Diverged"])


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_exit_codes_are_the_promised_ones(kind: type[SumgradError]) -> None:
    assert kind.exit_code in (1, 2, 3)
