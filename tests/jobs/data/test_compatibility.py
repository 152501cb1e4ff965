"""Rows that do not fit a model's schema are refused with file, column and row."""

from dataclasses import replace

import numpy as np
import pytest

from sumgrad.jobs.data.compatibility import (
    check_range,
    check_width,
    format_classes,
    match_labels,
)
from sumgrad.jobs.data.dataset import FileSpan, RawDataset
from sumgrad.jobs.data.schema import DataSchema, Scaling
from sumgrad.jobs.errors import DataError

ROWS = RawDataset(
    x=np.array([[1.0, 2.0], [3.0, 4.0]]),
    labels=np.array([7, 8]),
    features=("a", "b"),
    label=("label",),
    spans=(FileSpan("f", 2),),
)
SCHEMA = DataSchema(("a", "b"), classes=(7, 8), seen=(7, 8))


def test_the_number_of_features_has_to_match() -> None:
    check_width(ROWS, SCHEMA)
    with pytest.raises(DataError, match="f: expected 1 features as in training, found 2"):
        check_width(ROWS, replace(SCHEMA, features=("a",)))


def test_the_shape_of_images_has_to_match_where_both_are_images() -> None:
    images = replace(ROWS, image_shape=(1, 2))
    for rows, schema in [
        (images, SCHEMA),
        (ROWS, replace(SCHEMA, image_shape=(2, 1))),
        (images, replace(SCHEMA, image_shape=(1, 2))),
    ]:
        check_width(rows, schema)
    with pytest.raises(DataError, match="expected images of 2×1 as in training, found 1×2"):
        check_width(images, replace(SCHEMA, image_shape=(2, 1)))


def test_the_number_of_targets_has_to_match_where_labels_are_read() -> None:
    schema = DataSchema(("a", "b"), targets=("t", "u"), kind="numbers")
    rows = replace(ROWS, labels=np.array([[1.0], [2.0]]))
    check_width(replace(ROWS, labels=np.ones((2, 2))), schema)
    check_width(replace(ROWS, labels=None), schema)
    with pytest.raises(DataError, match="column 'label': expected 2 targets as in training, f"):
        check_width(rows, schema)
    with pytest.raises(DataError, match="expected 1 target as in training, found 2"):
        check_width(replace(ROWS, labels=np.ones((2, 2))), replace(schema, targets=("t",)))


def test_labels_have_to_be_known() -> None:
    unlabelled = replace(ROWS, labels=None)
    assert match_labels(ROWS, (7, 8, 9)) is ROWS
    assert match_labels(ROWS, ()) is ROWS
    assert match_labels(unlabelled, (7,)) is unlabelled
    with pytest.raises(DataError, match="row 2: the label '8' does not occur in training; kn"):
        match_labels(ROWS, (7,))


def test_a_text_becomes_the_number_that_it_is_in_training() -> None:
    rows = replace(ROWS, labels=np.array(["7", "none"], dtype=object))
    assert match_labels(rows, (7, 8, "none")).targets.tolist() == [7, "none"]
    assert match_labels(rows, ("7", "none")) is rows


@pytest.mark.parametrize("value", [3.5e38, -3.5e38])
def test_a_feature_that_overflows_is_named(value: float) -> None:
    x = np.array([[1.0, 2.0], [3.0, value]])
    check_range(replace(ROWS, x=x), Scaling(), np.float64)
    with pytest.raises(DataError, match=r"column 'b', row 2: -?3\.5e\+38 is too large for fl"):
        check_range(replace(ROWS, x=x), Scaling(), np.float32)
    with pytest.raises(DataError, match="column 'l', row 2"):
        check_range(replace(ROWS, x=x, list_column="l"), Scaling(), np.float32)


@pytest.mark.parametrize("value", [3.5e38, -3.5e38])
def test_a_target_that_overflows_is_named(value: float) -> None:
    rows = replace(ROWS, labels=np.array([[1.0, 2.0], [1.0, value]]))
    check_range(rows, Scaling(), np.float64)
    with pytest.raises(DataError, match=r"column .label., row 2: -?3\.5e\+38 is too large for fl"):
        check_range(rows, Scaling(), np.float32)
    with pytest.raises(DataError, match="column 'u', row 2"):
        check_range(replace(rows, label=("t", "u")), Scaling(), np.float32)
    largest = float(np.finfo(np.float32).max)
    check_range(replace(ROWS, labels=np.array([[largest], [1.0]])), Scaling(), np.float32)


def test_a_message_lists_twelve_classes() -> None:
    assert format_classes(tuple(range(12))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    assert format_classes(tuple(range(13))).endswith("10, 11, …")
