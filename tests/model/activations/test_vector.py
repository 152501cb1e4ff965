"""Vector activations: full Jacobians, vjps that never form them, and ties."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from sumgrad.model import Activation, OptionError, ScalarActivation, ShapeError, make_activation
from sumgrad.model.activations.vector import Max, Maxout, Softmax
from tests.model.cases import ACTIVATION_CASES, WIDTH, smooth_point
from tests.model.oracles import (
    FLOATS,
    DType,
    Floats,
    check_contraction,
    check_vjp,
)

VECTOR = {
    case: activation
    for case, activation in ACTIVATION_CASES.items()
    if not isinstance(activation, ScalarActivation)
}


def reference(activation: Activation, z: Floats) -> Floats:
    """The value by SciPy or, for maxima, by Python's own max."""
    if isinstance(activation, Softmax):
        return np.asarray(special.softmax(z, axis=1))
    columns = range(z.shape[1])
    if isinstance(activation, Maxout):
        size = activation.pieces
        subsets = [list(columns)[i : i + size] for i in range(0, len(columns), size)]
    else:
        assert isinstance(activation, Max)
        subsets = [list(subset) for subset in activation.subsets] or [list(columns)]
    return np.array([[max(row[k] for k in subset) for subset in subsets] for row in z])


@dataclass(frozen=True)
class DiagonalSoftmax(Softmax):
    """The common mistake: softmax taken for a scalar activation."""

    def vjp(self, z: Floats, y: Floats, d_y: Floats) -> Floats:
        return d_y * y * (1 - y)


@dataclass(frozen=True)
class LastWinnerMax(Max):
    """A component that won several times gets the last gradient, not the sum."""

    def vjp(self, z: Floats, y: Floats, d_y: Floats) -> Floats:
        d_z = np.zeros_like(z)
        d_z[np.arange(len(z))[:, None], self.argmax(z)] += d_y
        return d_z


@pytest.mark.parametrize("activation", VECTOR.values(), ids=VECTOR)
def test_value_is_the_references(activation: Activation) -> None:
    z = smooth_point(0, (30, WIDTH))
    np.testing.assert_allclose(activation.value(z), reference(activation, z), rtol=1e-14)


@pytest.mark.parametrize(
    "wrong", [DiagonalSoftmax(), LastWinnerMax(subsets=((0, 2, 4), (2, 5), (2,)))]
)
def test_a_wrong_vjp_is_caught(wrong: Activation) -> None:
    z = smooth_point(0, (20, WIDTH))
    with pytest.raises(AssertionError):
        check_vjp(wrong, z)
    with pytest.raises(AssertionError):
        check_contraction(wrong, z)


@pytest.mark.parametrize("activation", VECTOR.values(), ids=VECTOR)
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_and_shape(activation: Activation, dtype: DType) -> None:
    z = smooth_point(3, (7, WIDTH)).astype(dtype)
    y = activation.value(z)
    d_z = activation.vjp(z, y, np.ones_like(y))
    J = activation.jacobian(z)
    assert y.dtype == d_z.dtype == J.dtype == dtype
    assert y.shape == reference(activation, z).shape
    assert d_z.shape == z.shape
    assert J.shape == (7, y.shape[1], WIDTH)


@pytest.mark.parametrize("activation", VECTOR.values(), ids=VECTOR)
@pytest.mark.parametrize("dtype", FLOATS)
def test_far_out_it_is_finite_and_right(activation: Activation, dtype: DType) -> None:
    z = np.array([[1e4, -1e4, 0, 9e3, -9e3, 5], [-1e4, -1e4, -1e4, -1e4, -1e4, 1e4]], dtype=dtype)
    y = activation.value(z)
    np.testing.assert_allclose(y, reference(activation, z.astype(np.float64)), rtol=1e-6)
    assert np.isfinite(activation.vjp(z, y, np.ones_like(y))).all()
    check_contraction(activation, z.astype(np.float64))


@given(
    z=arrays(np.float64, (3, WIDTH), elements=st.integers(-2, 2).map(float)),
    case=st.sampled_from(sorted(VECTOR)),
    seed=st.integers(0, 100),
)
@settings(derandomize=True, deadline=None)
def test_vjp_is_the_contracted_jacobian_on_ties_too(z: Floats, case: str, seed: int) -> None:
    check_contraction(VECTOR[case], z, seed)
    np.testing.assert_allclose(VECTOR[case].value(z), reference(VECTOR[case], z), rtol=1e-14)


def test_softmax_is_a_distribution_that_a_shift_does_not_change() -> None:
    z = smooth_point(6, (20, WIDTH))
    y = Softmax().value(z)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(Softmax().value(z + 700), y, rtol=1e-12)


def test_softmax_of_equal_components_far_out_is_uniform() -> None:
    z = np.full((1, 4), -1e4, dtype=np.float32)
    np.testing.assert_array_equal(Softmax().value(z), np.full((1, 4), 0.25, dtype=np.float32))


def test_max_takes_the_first_index_of_the_subset_on_ties() -> None:
    z = np.array([[1.0, 7.0, 7.0, 7.0]])
    d_y = np.array([[1.0]])
    assert Max().vjp(z, Max().value(z), d_y).tolist() == [[0, 1, 0, 0]]
    # The first as the subset lists it, not the lowest component.
    backwards = Max(subsets=((3, 2, 0),))
    assert backwards.vjp(z, backwards.value(z), d_y).tolist() == [[0, 0, 0, 1]]
    assert backwards.jacobian(z).tolist() == [[[0, 0, 0, 1]]]


def test_padding_of_short_subsets_never_wins_a_tie() -> None:
    z = np.array([[5.0, 5.0, 5.0, 5.0]])
    uneven = Max(subsets=((1, 0), (0, 1, 2, 3), (2,)))
    assert uneven.argmax(z).tolist() == [[1, 0, 2]]


def test_max_sums_gradients_of_overlapping_subsets_and_skips_those_in_none() -> None:
    z = np.array([[3.0, 9.0, 4.0, 8.0], [9.0, 1.0, 2.0, 8.0]])
    overlapping = Max(subsets=((0, 1), (1, 2), (0, 2)))  # 3 in no subset
    y = overlapping.value(z)
    assert y.tolist() == [[9, 9, 4], [9, 2, 9]]
    d_z = overlapping.vjp(z, y, np.array([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]]))
    assert d_z.tolist() == [[0, 30, 30, 0], [4, 0, 2, 0]]
    assert overlapping.jacobian(z)[1].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]


def test_maxout_takes_the_first_piece_on_ties() -> None:
    z = np.array([[2.0, 2.0, 1.0, 5.0, 5.0, 5.0]])
    for pieces, expected in ((2, [1, 0, 0, 3, 5, 0]), (3, [1, 0, 0, 3, 0, 0])):
        maxout = Maxout(pieces=pieces)
        d_y = np.array([[1.0, 3.0, 5.0]])[:, : 6 // pieces]
        assert maxout.vjp(z, maxout.value(z), d_y).tolist() == [expected]


def test_widths_of_layers() -> None:
    assert (Maxout(3).affine_width(10), Maxout(3).output_width(10)) == (30, 10)
    assert (Max().affine_width(10), Max().output_width(10)) == (10, 1)
    assert Max(subsets=((0, 9), (1,))).output_width(10) == 2
    assert (Softmax().affine_width(10), Softmax().output_width(10)) == (10, 10)


def test_a_subset_index_beyond_the_units_is_refused() -> None:
    with pytest.raises(OptionError, match="index 10, but the layer has 10 units"):
        Max(subsets=((0, 10),)).affine_width(10)


@pytest.mark.parametrize(
    "subsets", ["01", [0, 1], [[]], [[0], []], [[-1]], [[0.0]], [[True]], [["0"]], 3, None]
)
def test_malformed_subsets_are_refused(subsets: object) -> None:
    with pytest.raises(OptionError, match="subset"):
        make_activation({"name": "max", "subsets": subsets})


def test_subsets_given_as_lists_are_hashable_and_equal_to_tuples() -> None:
    assert make_activation({"name": "max", "subsets": [[0, 1]]}) == Max(subsets=((0, 1),))
    assert hash(make_activation({"name": "max", "subsets": [[0, 1]]}))


@pytest.mark.parametrize("pieces", [0, -1, 2.0, True, "2"])
def test_pieces_have_to_be_a_whole_number_from_one(pieces: object) -> None:
    with pytest.raises(OptionError, match="pieces"):
        make_activation({"name": "maxout", "pieces": pieces})


def test_maxout_refuses_a_width_that_its_pieces_do_not_divide() -> None:
    with pytest.raises(ShapeError, match="5 columns"):
        Maxout(2).value(np.zeros((1, 5)))
