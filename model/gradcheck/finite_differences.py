"""One probe of a gradient: the analytic derivative along a vector against finite differences.

Central differences, ``(L(w + h) − L(w − h)) / 2h``, have an error of order h² from the curvature
and of order ε/h from rounding; ``h ~ ∛ε`` balances the two. h is scaled so that the layer's z
changes by at most ``∛ε``, at any scale of x.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sumgrad.model.divergences import Targets
from sumgrad.model.network import Cache, Network
from sumgrad.model.parameters import Parameters
from sumgrad.model.random_streams import RandomStream
from sumgrad.model.validation import Array

EPSILON = float(np.finfo(np.float64).eps)  #: ε of float64.
STEP = EPSILON ** (1 / 3)  #: ∛ε of float64.
REFINEMENT = 16  #: How much smaller the second step is, which excludes kinks that are only close.
#: A kink is suspected above this relative gap of the quotients; curvature alone causes about h.
KINK = 1e-3
PERTURBATION = 1e-2  #: The largest perturbation of a parameter, and of x over ``max(1, max|x|)``.
ROUNDINGS = 16  #: The rounding error of a divergence, in units of its last place.


@dataclass(frozen=True)
class ProbeResult:
    """The relative error of one probe, None if unresolved, and whether it is at a kink."""

    error: float | None
    kink: bool

    def agrees(self, tolerance: float) -> bool:
        """Return whether the probe is resolved and its error is within the tolerance."""
        return self.error is not None and self.error <= tolerance


@dataclass(frozen=True)
class DirectionalDerivatives:
    """The analytic and both one-sided numeric derivatives along one vector."""

    analytic: float
    lowest: float  #: The sum of the smaller one-sided quotient of each instance.
    highest: float  #: The sum of the larger one.
    unit: float  #: What errors are relative to.

    @property
    def gap(self) -> float:
        """The difference of the one-sided quotients."""
        return self.highest - self.lowest

    @property
    def off_center(self) -> float:
        """The relative distance of the analytic derivative from the central quotient."""
        return abs(self.analytic - (self.lowest + self.highest) / 2) / self.unit

    @property
    def outside(self) -> float:
        """The relative distance of the analytic derivative from the quotients' interval."""
        beyond = np.max([self.lowest - self.analytic, self.analytic - self.highest, 0.0])
        return float(beyond) / self.unit


@dataclass(frozen=True)
class Point:
    """Parameters and an input, with the analytic gradients and numeric probes there."""

    network: Network
    parameters: Parameters
    x: Array
    d: Targets
    tolerance: float

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The arrays to differentiate by, by name."""
        return {**dict(self.parameters.items()), "x": self.x}

    @cached_property
    def gradients(self) -> dict[str, Array]:
        """The analytic gradients, by name."""
        by_x = self.network.input_gradient(self.parameters, self.x, self.d)
        summed = self.network.gradient_sum(self.parameters, self.x, self.d)
        return {**dict(summed.gradients.items()), "x": by_x}

    @cached_property
    def base_loss(self) -> Array:
        """Div of each instance, (B,)."""
        return self.network.divergences(self.parameters, self.x, self.d)

    @cached_property
    def cache(self) -> Cache:
        """The arrays of the forward recursion."""
        return self.network.forward(self.parameters, self.x)

    def perturbed(self, after: int, stream: RandomStream) -> "Point":
        """Return a randomly perturbed point: layers after ``after``, and x if that is 0."""
        flat, x = self.parameters.flat.copy(), self.x
        specs = self.parameters.layout.param_specs
        start = next((spec.offset for spec in specs if layer_of(spec.name) > after), flat.size)
        flat[start:] += PERTURBATION * (2 * stream.uniform(flat.size - start) - 1)
        if after == 0:
            size = PERTURBATION * max(1.0, np.abs(x).max())
            x = x + size * (2 * stream.uniform(x.shape) - 1)
        return replace(self, parameters=self.network.parameters(flat), x=x)

    def probe(self, name: str, v: Array) -> ProbeResult:
        """Compare the derivatives along a vector."""
        h = STEP / self._speed(name, v)
        far = self._derivatives(name, v, h)
        if far.off_center <= self.tolerance and far.gap <= KINK * far.unit:
            return ProbeResult(far.off_center, kink=False)
        # A smaller step avoids a kink that is only close. Curvature's part of the gap shrinks with
        # the step; a jump of the derivative does not.
        near = self._derivatives(name, v, h / REFINEMENT)
        return ProbeResult(near.outside, near.gap > max(far.gap / 4, self.tolerance * near.unit))

    def _speed(self, name: str, v: Array) -> float:
        """Return the largest change of z of the array's layer along a vector."""
        d_z: Array
        if name == "x":
            d_z = v @ self.parameters.W[0].T
        elif name.startswith("W"):
            d_z = self.cache.y[layer_of(name) - 1] @ v.T
        else:
            d_z = v
        return float(np.abs(d_z).max(initial=0.0)) or 1.0

    def _derivatives(self, name: str, v: Array, h: float) -> DirectionalDerivatives:
        right = (self._divergences(name, v, h) - self.base_loss) / h
        left = (self.base_loss - self._divergences(name, v, -h)) / h
        gradient = self.gradients[name]
        analytic = float(np.sum(gradient * v))
        expected = float(np.linalg.norm(gradient) * np.linalg.norm(v)) / math.sqrt(v.size)
        # Rounding of the divergences and of z limits the accuracy of a difference.
        largest_z = float(np.abs(self.cache.z[max(layer_of(name), 1) - 1]).max(initial=0.0))
        rounded = float(np.sum(np.abs(self.base_loss))) + largest_z * expected
        noise = ROUNDINGS * EPSILON * rounded / h
        lowest, highest = float(np.minimum(left, right).sum()), float(np.maximum(left, right).sum())
        unit = max(abs(analytic), abs(lowest), abs(highest), expected, noise / self.tolerance)
        return DirectionalDerivatives(analytic, lowest, highest, unit or 1.0)

    def _divergences(self, name: str, v: Array, t: float) -> Array:
        """Return Div of each instance, (B,), with t·v added to one array."""
        if name == "x":
            return self.network.divergences(self.parameters, self.x + t * v, self.d)
        moved = self.network.parameters(self.parameters.flat.copy())
        moved[name][...] += t * v
        return self.network.divergences(moved, self.x, self.d)


def layer_of(name: str) -> int:
    """Return the layer of ``W3`` or ``b3``; 0 for ``x``."""
    return 0 if name == "x" else int(name[1:])
