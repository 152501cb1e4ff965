"""Rows of several files become one data set, and each row is found again in its file."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sumgrad.jobs.data.dataset import (
    FileSpan,
    RawDataset,
    RowLocations,
    concatenate,
    locate,
    pixel_names,
)
from sumgrad.jobs.errors import DataError, DataNotFound


def dataset(file: str, x: list[list[int]], labels: list[Any] | None) -> RawDataset:
    dtype = object if labels and isinstance(labels[0], str) else None
    names = tuple("abc"[: len(x[0])])
    targets = None if labels is None else np.array(labels, dtype=dtype)
    return RawDataset(np.array(x), targets, names, ("label",), (FileSpan(file, len(x)),))


FIRST = dataset("one", [[1, 2], [3, 4]], [0, 1])


def test_files_are_concatenated_in_order() -> None:
    both = concatenate([FIRST, dataset("two", [[5, 6]], [2])])
    assert both.x.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert both.targets.tolist() == [0, 1, 2]
    assert [locate(both.spans, row) for row in range(3)] == [("one", 1), ("one", 2), ("two", 1)]
    with pytest.raises(IndexError):
        locate(both.spans, 3)
    assert str(both.error("is odd", 2, "a")) == "two, column 'a', row 1: is odd"
    assert both.file == "one"
    assert concatenate([FIRST]) is FIRST


def test_files_without_labels_are_concatenated() -> None:
    both = concatenate([replace(FIRST, labels=None), dataset("two", [[5, 6]], None)])
    assert (both.count, both.labels) == (3, None)
    with pytest.raises(ValueError, match="without labels"):
        _ = both.targets


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dataset("two", [[1]], [0]), "two: 1 features, but one has 2"),
        (dataset("two", [[1, 2]], ["x"]), "labels are strings here and numbers in one"),
        (dataset("two", [[1, 2]], [[0, 1]]), "two, column 'label': 2 targets, but one has"),
        (
            replace(dataset("two", [[1, 2]], [0]), list_column="l"),
            "two, column 'l': holds lists, in one it does not",
        ),
    ],
)
def test_a_file_unlike_the_first_is_refused(other: RawDataset, message: str) -> None:
    first = FIRST
    if other.targets.ndim > 1:
        first = replace(FIRST, labels=np.array([[0], [1]]))
    with pytest.raises(DataError) as caught:
        concatenate([first, other])
    assert message in str(caught.value)


def test_features_are_selected_by_name() -> None:
    images = replace(FIRST, image_shape=(1, 2))
    chosen = images.select(("b",))
    assert (chosen.x.tolist(), chosen.features, chosen.image_shape) == ([[2], [4]], ("b",), None)
    assert images.select(None) is images.select(("a", "b")) is images
    with pytest.raises(DataNotFound, match="one has no feature 'bb'") as caught:
        images.select(("bb",))
    assert "'b'" in caught.value.hint


def test_pixels_are_named_row_by_row() -> None:
    assert pixel_names(2, 2) == ("pixel_0_0", "pixel_0_1", "pixel_1_0", "pixel_1_1")


def test_locations_list_a_few_rows_of_each_file() -> None:
    spans = (FileSpan("one", 4), FileSpan("two", 4))
    held_out = RowLocations(spans, np.array([1, 3, 4, 7]), 4)
    assert held_out.describe([0]) == "one, row 2"
    assert held_out.describe([0, 1, 2, 3]) == "one, rows 2, 4; two, rows 1, 4"
    everything = RowLocations(spans, None, 8)
    assert everything.describe([0, 1, 2]) == "one, rows 1, 2, 3"
    assert everything.describe([0, 1, 2, 3]) == "one, rows 1, 2, 3 and 1 more"
    assert everything.describe([8]) == "1 made row"
    assert everything.describe([7, 8, 9]) == "two, row 4; 2 made rows"
    assert everything.describe([]) == ""
