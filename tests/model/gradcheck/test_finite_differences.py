"""One probe: distances from the numeric derivatives, kinks, and the limits of rounding."""

import numpy as np
import pytest

from sumgrad.model.activations.scalar import Absolute, Identity, ReLU
from sumgrad.model.divergences import L2
from sumgrad.model.gradcheck.finite_differences import DirectionalDerivatives, Point, ProbeResult
from sumgrad.model.network import Layer, Network

TOLERANCE = 1e-6


def point(activation: ReLU | Absolute, flat: list[float], d: float) -> Point:
    """A network 1-1-1 at x = 1; ``flat`` is W1, b1, W2, b2."""
    network = Network(1, (Layer(1, activation), Layer(1, Identity())), L2(), "float64")
    parameters = network.parameters(np.array(flat))
    return Point(network, parameters, np.ones((1, 1)), np.full((1, 1), d), TOLERANCE)


@pytest.mark.parametrize(
    ("analytic", "off_center", "outside"),
    [(2.0, 0.0, 0.0), (2.5, 0.25, 0.0), (5.0, 1.5, 1.0), (-1.0, 1.5, 1.0)],
)
def test_distances_are_relative_to_the_unit(
    analytic: float, off_center: float, outside: float
) -> None:
    found = DirectionalDerivatives(analytic, lowest=1.0, highest=3.0, unit=2.0)
    assert (found.gap, found.off_center, found.outside) == (2.0, off_center, outside)


@pytest.mark.parametrize(
    ("error", "agrees"), [(0.0, True), (TOLERANCE, True), (2e-6, False), (None, False)]
)
def test_an_unresolved_probe_does_not_agree(error: float | None, agrees: bool) -> None:
    assert ProbeResult(error, kink=False).agrees(TOLERANCE) is agrees


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_a_kink_is_found_at_any_scale_of_the_derivative(scale: float) -> None:
    # The central quotient of |z| at 0 equals the subgradient, so only the gap shows the kink.
    found = point(Absolute(), [1.0, -1.0, scale, 0.0], d=-1.0).probe("b1", np.ones(1))
    assert found == ProbeResult(0.0, kink=True)


def test_a_kink_that_is_only_close_is_not_counted() -> None:
    # At z = h/2 the first step crosses the kink, and the second does not.
    found = point(ReLU(), [1.0, -1.0 + 3e-6, 1.0, 0.0], d=1.0).probe("b1", np.ones(1))
    assert not found.kink
    assert found.agrees(TOLERANCE)


def test_errors_below_the_rounding_of_the_divergence_pass() -> None:
    h, epsilon = 1e-5, np.finfo(np.float64).eps
    dead = point(ReLU(), [1.0, -2.0, 1.0, 0.0], d=1e6)
    found = dead._derivatives("b1", np.ones(1), h)
    assert found.analytic == found.lowest == found.highest == 0
    assert found.unit == pytest.approx(16 * epsilon * 5e11 / h / TOLERANCE, rel=1e-6)
