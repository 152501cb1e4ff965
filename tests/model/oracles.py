"""Derivatives and networks written a second time, straight from their definitions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sumgrad.model import Activation, Network, Parameters

Floats = NDArray[np.floating]
DType = type[np.floating]
FLOATS: list[DType] = [np.float32, np.float64]

#: ∛ε of float64: balances curvature and rounding of a central difference.
STEP = float(np.cbrt(np.finfo(np.float64).eps))


def numeric_jacobian(f: Callable[[Floats], Floats], z: Floats) -> Floats:
    """Central differences of a function of rows, (B, D) to (B, D_out): its Jacobian of each row."""
    columns = []
    for k in range(z.shape[1]):
        step = np.zeros_like(z)
        step[:, k] = STEP * np.maximum(1, np.abs(z[:, k]))
        above, below = z + step, z - step
        span = (above - below)[:, k, None]
        columns.append((f(above) - f(below)) / span)
    return np.stack(columns, axis=2)


def assert_near(actual: Floats, expected: Floats, tolerance: float) -> None:
    """Agreement relative to the largest number expected, or to 1."""
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def check_jacobian(activation: Activation, z: Floats) -> None:
    """The Jacobian is the derivative of the value."""
    assert_near(activation.jacobian(z), numeric_jacobian(activation.value, z), 1e-8)


def check_vjp(activation: Activation, z: Floats, seed: int = 0) -> None:
    """The vjp is a random vector times the derivative of the value."""
    y = activation.value(z)
    d_y = np.random.default_rng(seed).standard_normal(y.shape)
    expected = np.einsum("ij,ijk->ik", d_y, numeric_jacobian(activation.value, z))
    assert_near(activation.vjp(z, y, d_y), expected, 1e-8)


def check_contraction(activation: Activation, z: Floats, seed: int = 0) -> None:
    """The vjp, which never forms the Jacobian, is a random vector times the Jacobian."""
    y = activation.value(z)
    d_y = np.random.default_rng(seed).standard_normal(y.shape)
    expected = np.einsum("ij,ijk->ik", d_y, activation.jacobian(z))
    assert_near(activation.vjp(z, y, d_y), expected, 1e-14)


def check_into(activation: Activation, z: Floats, seed: int = 0) -> None:
    """What writes into an array gives the bits of what returns one."""
    y, d_z = activation.value(z), np.full_like(z, np.nan)
    d_y = np.random.default_rng(seed).standard_normal(y.shape).astype(z.dtype)
    written = np.full_like(y, np.nan)
    activation.value_into(z, written)
    activation.vjp_into(z, y, d_y, d_z)
    assert written.tobytes() == y.tobytes()
    assert d_z.tobytes() == activation.vjp(z, y, d_y).tobytes()


def lecture_gradients(
    network: Network, parameters: Parameters, x: Floats, d: Floats
) -> tuple[list[Floats], list[Floats], Floats]:
    """Both recursions for one instance after the other, with explicit Jacobians.

    Returns:
        The sums of ``∇_{W_k}`` and of ``∇_{b_k}``, and ``∇_{y_0}`` of each instance.
    """
    depth = len(network.layers)
    d_W = [np.zeros_like(W) for W in parameters.W]
    d_b = [np.zeros_like(b) for b in parameters.b]
    d_x = []
    for instance, desired in zip(x, d, strict=True):
        z: list[Floats] = []
        y = [instance]
        for k in range(depth):
            z.append(np.einsum("ij,j->i", parameters.W[k], y[-1]) + parameters.b[k])
            y.append(network.layers[k].activation.value(z[-1][None])[0])
        d_y = network.divergence.gradient(y[-1][None], desired[None])[0]
        for k in reversed(range(depth)):
            J = network.layers[k].activation.jacobian(z[k][None])[0]
            d_z = np.einsum("j,jk->k", d_y, J)
            d_W[k] += np.outer(d_z, y[k])
            d_b[k] += d_z
            d_y = np.einsum("j,jk->k", d_z, parameters.W[k])
        d_x.append(d_y)
    return d_W, d_b, np.array(d_x)
