"""Checks of shapes and dtypes, and hints for unknown names."""

from typing import Any

import numpy as np
import pytest

from sumgrad.model import ShapeError
from sumgrad.model.validation import as_float_array, check_dtype, check_shape, did_you_mean


def test_a_shape_that_fits_passes() -> None:
    check_shape("x", np.zeros((2, 3)), 2, 3)
    check_shape("x", np.zeros((2, 3)), None, 3)
    check_shape("x", np.zeros(()))


@pytest.mark.parametrize(
    ("shape", "wanted", "message"),
    [
        ((2, 3), (2, 4), "x has shape (2, 3), expected (2, 4)"),
        ((2, 3), (None, 4), "x has shape (2, 3), expected (any, 4)"),
        ((2,), (2, 1), "x has shape (2,), expected (2, 1)"),
        ((2, 1), (2,), "x has shape (2, 1), expected (2)"),
        ((), (1,), "x has shape (), expected (1)"),
        ((1, 3), (2, 3), "x has shape (1, 3), expected (2, 3)"),
    ],
)
def test_nothing_broadcasts(
    shape: tuple[int, ...], wanted: tuple[int | None, ...], message: str
) -> None:
    with pytest.raises(ShapeError) as caught:
        check_shape("x", np.zeros(shape), *wanted)
    assert str(caught.value) == message


def test_dtypes_are_exact() -> None:
    check_dtype("W", np.zeros(2, np.float32), "float32")
    for wrong in (np.float64, np.int32, np.dtype(">f4")):
        with pytest.raises(ShapeError, match=r"^W is .*, expected float32$"):
            check_dtype("W", np.zeros(2, wrong), "float32")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.arange(6.0).reshape(2, 3),
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2] / 2,
    ],
)
def test_numbers_become_row_major_and_of_the_dtype(array: Any) -> None:
    numbers = as_float_array("x", array, "float32")
    assert numbers.dtype == np.float32
    assert numbers.flags.c_contiguous
    assert numbers.flags.aligned
    assert numbers.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_array_of_the_right_layout_is_not_copied() -> None:
    array = np.zeros((2, 3), np.float32)
    assert as_float_array("x", array, "float32") is array


def test_a_misaligned_array_is_copied() -> None:
    array = np.frombuffer(bytes(25), np.uint8)[1:].view(np.float32)
    assert not array.flags.aligned
    assert as_float_array("x", array, "float32").flags.aligned


@pytest.mark.parametrize("array", [np.array(["1"]), np.array([None]), np.array([1j])])
def test_an_array_without_numbers_is_refused(array: Any) -> None:
    with pytest.raises(ShapeError, match=r"^x is .*, expected numbers$"):
        as_float_array("x", array, "float32")


def test_hints_name_the_most_similar_name_or_all() -> None:
    assert did_you_mean("reluu", ["relu", "selu", "tanh"]) == "did you mean 'relu'?"
    assert did_you_mean("qqq", ["tanh", "relu"]) == "known: relu, tanh"
    assert did_you_mean("", ["b", "a"]) == "known: a, b"


def test_hints_know_the_names_of_other_libraries() -> None:
    assert did_you_mean("linear", ["identity", "relu"]) == "did you mean 'identity'?"
    assert did_you_mean("Swish", ["silu", "relu"]) == "did you mean 'silu'?"
    assert did_you_mean("linear", ["relu", "tanh"]) == "known: relu, tanh"
