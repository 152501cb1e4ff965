"""Every declared error survives pickling and has an exit code."""

import pickle
from collections.abc import Iterator

import pytest

import sumgrad.cluster.errors
import sumgrad.jobs.errors
from sumgrad.jobs.support.error_report import exit_code
from sumgrad.model.errors import SumgradError

MADE: dict[str, SumgradError] = {
    "WorkerLost": sumgrad.cluster.errors.WorkerLost(2, "starting", hint="look"),
    "MicrobatchFailed": sumgrad.cluster.errors.MicrobatchFailed(
        1, range(4, 5), "summing", "MemoryError: none left", "train", [7]
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


def make(kind: type[SumgradError]) -> SumgradError:
    """Return an error of a class, with the class's own attributes where it has some."""
    return MADE.get(kind.__name__) or kind("what happened", hint="what to do")


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_errors_survive_pickling_with_their_attributes(kind: type[SumgradError]) -> None:
    error = make(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__


def test_messages_name_the_attributes() -> None:
    assert str(MADE["DataError"]) == "a.csv, column 'x', row 3: is null"
    assert str(MADE["WorkerLost"]) == "worker 2 was lost while starting"
    assert "microbatch 4" in str(MADE["MicrobatchFailed"])
    assert "epoch 3, step 40" in str(MADE["Diverged"])


def test_exit_codes_are_the_documented_ones() -> None:
    codes = {kind.__name__: exit_code(make(kind)) for kind in kinds()}
    assert {name for name, code in codes.items() if code == 1} == {
        *("SumgradError", "MicrobatchFailed", "CountMismatch", "Diverged", "DataError"),
        "ModelNotSaved",
    }
    assert {codes[name] for name in ("ClusterError", "WorkerLost", "ServiceUnreachable")} == {3}
    assert {codes[name] for name in ("TrackingError", "LoginRefused", "JobLost")} == {3}
    assert codes["VersionMismatch"] == 3
    assert {codes[name] for name in ("ShapeError", "SpecError", "RunLocked")} == {2}
    assert codes["Interrupted"] == 143
