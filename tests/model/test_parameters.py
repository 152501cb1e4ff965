"""One flat vector, named views on it, and its hash."""

import copy
import hashlib
import pickle
import struct

import numpy as np
import pytest

from sumgrad.model import Layout, Parameters, ShapeError, weights_sha256
from tests.model.oracles import FLOATS, DType, Floats

LAYOUT = Layout(((3, 2), (2, 4), (1, 1)))


def counted(dtype: DType = np.float64) -> Parameters:
    """0, 1, 2, … in layout order."""
    return Parameters(LAYOUT, np.arange(LAYOUT.size, dtype=dtype))


def test_the_order_is_layer_by_layer_weights_then_biases() -> None:
    parameters = counted()
    shapes = {name: view.shape for name, view in parameters.items()}
    assert list(shapes) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    assert list(shapes.values()) == [(2, 3), (2,), (4, 2), (4,), (1, 1), (1,)]
    assert parameters["W1"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parameters["b1"].tolist() == [6, 7]
    assert parameters["W2"].tolist() == [[8, 9], [10, 11], [12, 13], [14, 15]]
    assert parameters["b2"].tolist() == [16, 17, 18, 19]
    laid_out = np.concatenate([view.reshape(-1) for _, view in parameters.items()])
    np.testing.assert_array_equal(laid_out, parameters.flat)


def test_param_specs_give_the_offset_of_each_array() -> None:
    specs = [(spec.name, spec.offset, spec.size) for spec in LAYOUT.param_specs]
    assert specs == [
        ("W1", 0, 6), ("b1", 6, 2), ("W2", 8, 8), ("b2", 16, 4), ("W3", 20, 1), ("b3", 21, 1)
    ]  # fmt: skip
    assert LAYOUT.size == 22


def test_views_write_through_in_both_directions() -> None:
    parameters = counted()
    parameters.W[1][0, 1] = -1
    parameters.b[0][...] = [-2, -3]
    assert parameters.flat[[9, 6, 7]].tolist() == [-1, -2, -3]
    parameters.flat[...] = 5
    assert all((view == 5).all() for view in (*parameters.W, *parameters.b))
    assert parameters["W2"] is parameters.W[1]
    assert all(np.shares_memory(view, parameters.flat) for _, view in parameters.items())


def test_the_vector_is_not_copied() -> None:
    flat = np.zeros(LAYOUT.size)
    Parameters(LAYOUT, flat).W[0][...] = 1
    assert flat[:6].all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros(dtype: DType) -> None:
    parameters = Parameters.zeros(LAYOUT, dtype)
    assert parameters.flat.dtype == dtype
    assert parameters.flat.tolist() == [0] * 22


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (np.zeros(21), r"shape \(21,\), expected \(22\)"),
        (np.zeros((22, 1)), r"shape \(22, 1\)"),
        (np.zeros(22, np.int64), "int64, expected float32 or float64"),
        (np.zeros(44)[::2], "not contiguous"),
    ],
)
def test_an_invalid_vector_is_refused(flat: Floats, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Parameters(LAYOUT, flat)


@pytest.mark.parametrize(("dtype", "code"), [(np.float32, "f"), (np.float64, "d")])
def test_sha256_is_that_of_the_little_endian_bytes(dtype: DType, code: str) -> None:
    numbers = [1.5, -0.0, 3e-20, 1e30]
    expected = hashlib.sha256(struct.pack(f"<4{code}", *numbers)).hexdigest()
    flat = np.array(numbers, dtype)
    assert weights_sha256(flat) == expected
    assert weights_sha256(flat.astype(flat.dtype.newbyteorder(">"))) == expected
    assert weights_sha256(np.repeat(flat, 2)[::2]) == expected


def test_sha256_of_parameters_is_that_of_the_flat_vector() -> None:
    expected = hashlib.sha256(struct.pack("<22d", *range(22))).hexdigest()
    assert counted().sha256() == expected


def test_one_bit_changes_the_sha256() -> None:
    changed = counted()
    changed.b[2][0] = np.nextafter(changed.b[2][0], 0)
    assert changed.sha256() != counted().sha256()
    signed = counted()
    signed.flat[0] = -0.0
    assert signed.sha256() != counted().sha256()
    assert counted(np.float32).sha256() != counted().sha256()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_views_are_views_after_pickling(protocol: int) -> None:
    again = pickle.loads(pickle.dumps(counted(), protocol))
    assert again.layout == LAYOUT
    assert again.sha256() == counted().sha256()
    again.W[1][...] = -1
    assert (again.flat[8:16] == -1).all()
    assert all(np.shares_memory(view, again.flat) for _, view in again.items())


def test_views_are_views_after_a_deep_copy() -> None:
    original = counted()
    again = copy.deepcopy(original)
    again.W[0][...] = -1
    assert (again.flat[:6] == -1).all()
    assert original.sha256() == counted().sha256()
