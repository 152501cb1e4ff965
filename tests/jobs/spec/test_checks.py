"""A data section that makes no sense is refused before a row is read."""

from typing import Any

import pytest

from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.checks import check_record
from tests.jobs.data.cases import REGRESSION, SIGMOID, job, outputs


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        ({"features": ["a", "label"]}, "data.features", "'label' is the label"),
        ({"features": ["a", "a"]}, "data.features", "'a' is named twice"),
        ({"features": []}, "data.features", "names no column"),
        ({"label": []}, "data.label", "names no column"),
        ({"label": ["a", "b"]}, "data.label", "one label column, not 2"),
        ({"reject": {"kinds": ["nois"]}}, "data.reject.kinds", "unknown kind"),
        ({"reject": {"unseen": ["seam"]}}, "data.reject.unseen", "unknown kind"),
        ({"reject": {"kinds": []}}, "data.reject.kinds", "names no kind"),
        ({"reject": {"kinds": ["noise", "noise"]}}, "data.reject.kinds", "named twice"),
        ({"reject": {"unseen": ["noise"]}}, "data.reject.unseen", "'noise' is trained with"),
    ],
)
def test_the_key_is_named(data: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_record(job(outputs(2), train="rows.csv", **data))
    assert caught.value.key == place


def test_an_unknown_kind_gets_the_nearest_name() -> None:
    with pytest.raises(SpecError) as caught:
        check_record(job(outputs(2), train="rows.csv", reject={"kinds": ["scrambld"]}))
    assert caught.value.hint == "did you mean 'scrambled'?"


@pytest.mark.parametrize("model", [SIGMOID, REGRESSION])
def test_only_a_choice_among_classes_has_a_reject_class(model: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="one output for each class") as caught:
        check_record(job(model, train="digits", reject={}))
    assert caught.value.key == "data.reject"


def test_sound_sections_pass() -> None:
    check_record(job(outputs(2), train="rows.csv", features="pixels", reject={}))
    check_record(job(REGRESSION, train="rows.csv", label=["a", "b"], features=["c"]))
