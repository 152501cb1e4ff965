"""What a run may be resumed with."""

from typing import Any

import pytest

from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.runs.signature import EARLIER_CODE, signature_of_resumed

SIGNATURE: dict[str, Any] = {
    "spec": {"seed": 3, "optimizer": {"eta": 0.3}},
    "data": "abc",
    "microbatch_size": {"train": 32},
    "arithmetic": {"blas": "x"},
    "code": "c0de1",
}


def test_the_same_job_can_be_resumed() -> None:
    assert signature_of_resumed(SIGNATURE, dict(SIGNATURE), "run") == SIGNATURE


def test_every_difference_is_named() -> None:
    current = SIGNATURE | {"spec": {"seed": 4, "optimizer": {"eta": 0.1}}, "data": "xyz"}
    with pytest.raises(CheckpointError) as caught:
        signature_of_resumed(SIGNATURE, current, "run-1")
    for text in ("run-1", "seed was 3 and is 4", "optimizer.eta was 0.3", "data was abc and is"):
        assert text in caught.value.message
    assert "--allow-code-change" not in caught.value.hint


def test_a_difference_behind_thousands_of_characters_is_found() -> None:
    earlier, current = ({"spec": {"features": ["x"] * 5000 + [last]}} for last in "yz")
    with pytest.raises(CheckpointError, match=r"features was .* and is ") as caught:
        signature_of_resumed(SIGNATURE | earlier, SIGNATURE | current, "run")
    assert len(caught.value.message) < 1000


def test_changed_code_is_refused_with_both_digests() -> None:
    with pytest.raises(CheckpointError, match="code was c0de1 and is c0de2") as caught:
        signature_of_resumed(SIGNATURE, SIGNATURE | {"code": "c0de2"}, "run")
    assert "--allow-code-change" in caught.value.hint


def test_changed_code_can_be_allowed_and_is_recorded() -> None:
    changed = SIGNATURE | {"code": "c0de2"}
    signature = signature_of_resumed(SIGNATURE, changed, "run", allow_code_change=True)
    assert signature == changed | {EARLIER_CODE: ["c0de1"]}
    assert signature_of_resumed(signature, changed, "run") == signature
    third = signature_of_resumed(
        signature, SIGNATURE | {"code": "c0de3"}, "run", allow_code_change=True
    )
    assert third[EARLIER_CODE] == ["c0de1", "c0de2"]


def test_a_signature_without_code_is_refused() -> None:
    earlier = {key: value for key, value in SIGNATURE.items() if key != "code"}
    with pytest.raises(CheckpointError, match="code was missing and is c0de1"):
        signature_of_resumed(earlier, SIGNATURE, "run")


def test_other_differences_are_refused_even_if_changed_code_is_allowed() -> None:
    with pytest.raises(CheckpointError, match="data was abc and is xyz"):
        signature_of_resumed(
            SIGNATURE, SIGNATURE | {"data": "xyz", "code": "c"}, "run", allow_code_change=True
        )
