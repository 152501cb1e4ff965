"""The quantile function of the normal distribution against the standard library's."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from sumgrad.model.normal_quantile import normal_quantile

SMALLEST = 2.0**-53


def probabilities() -> list[float]:
    """Probabilities of every branch, and of both sides of each border."""
    borders = [0.075, 0.925, float(np.exp(-25)), 1 - float(np.exp(-25))]
    around = [border + sign * 1e-15 for border in borders for sign in (-1, 0, 1)]
    small = np.logspace(-15.9, -0.3, 500)
    return [SMALLEST, 1 - SMALLEST, 0.5, *around, *small, *(1 - small)]


def test_it_inverts_the_distribution_function() -> None:
    u = np.array(probabilities())
    expected = np.array([NormalDist().inv_cdf(p) for p in u.tolist()])
    np.testing.assert_allclose(normal_quantile(u), expected, rtol=2e-15, atol=1e-16)
    lower = u[u <= 0.5]
    probability = [math.erfc(-z / math.sqrt(2)) / 2 for z in normal_quantile(lower).tolist()]
    np.testing.assert_allclose(probability, lower, rtol=5e-14)


def test_it_is_odd_about_one_half() -> None:
    u = np.arange(1, 1024) / 1024
    np.testing.assert_array_equal(normal_quantile(u), -normal_quantile(1 - u))


@pytest.mark.parametrize(("u", "z"), [(SMALLEST, -8.2095), (0.5, 0.0), (0.975, 1.959964)])
def test_known_quantiles(u: float, z: float) -> None:
    assert normal_quantile(np.array([u]))[0] == pytest.approx(z, abs=1e-4)
