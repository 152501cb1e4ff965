"""One probe of a gradient: the analytic slope along a vector against numeric ones.

Central differences, ``(L(w + h) − L(w − h)) / 2h``, have an error of order h² from the curvature
and of order ε/h from rounding; ``h ~ ∛ε`` balances the two. It is a step of z that is meant: h is
scaled so that the probed array moves its layer's z by ``∛ε`` at most, whatever the scale of x.
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

#: ε and ∛ε of float64.
EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)
#: How much smaller the second step is, which tells a kink close by from one that is met.
CLOSER = 16
#: Where one-sided quotients differ by more than this, relatively, a kink is looked for; curvature
#: alone makes them differ by about h.
KINK = 1e-3
#: How far off the points nearby are, relatively.
NEARBY = 1e-2
#: How many roundings of the last bit a divergence may be off by.
ROUNDINGS = 16


@dataclass(frozen=True)
class ProbeResult:
    """A relative error, None where nothing could be said, and whether a kink was met."""

    error: float | None
    kink: bool

    def agrees(self, tolerance: float) -> bool:
        """Whether something was said, and it is good."""
        return self.error is not None and self.error <= tolerance


@dataclass(frozen=True)
class DirectionalDerivatives:
    """Derivatives along one vector: the analytic one, and both one-sided quotients' sums.

    ``lowest`` and ``highest`` take the smaller and the larger quotient of each instance.
    """

    analytic: float
    lowest: float
    highest: float
    unit: float

    @property
    def gap(self) -> float:
        """By how much the one-sided quotients differ."""
        return self.highest - self.lowest

    @property
    def off_center(self) -> float:
        """How far the analytic slope is from the central quotient, relatively."""
        return abs(self.analytic - (self.lowest + self.highest) / 2) / self.unit

    @property
    def outside(self) -> float:
        """How far the analytic slope is from lying between the quotients, relatively."""
        beyond = np.max([self.lowest - self.analytic, self.analytic - self.highest, 0.0])
        return float(beyond) / self.unit


@dataclass(frozen=True)
class Point:
    """Parameters and an input, the analytic gradients there, and numeric ones on request."""

    network: Network
    parameters: Parameters
    x: Array
    d: Targets
    tolerance: float

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """What is differentiated by, by name."""
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
        """What the forward recursion left: z and y of each layer."""
        return self.network.forward(self.parameters, self.x)

    def perturbed(self, behind: int, stream: RandomStream) -> "Point":
        """A point at random a little off, as to the layers behind one; behind 0, x as well."""
        parameters = self.network.parameters(self.parameters.flat.copy())
        for name, array in parameters.items():
            if layer_of(name) > behind:
                array[...] += NEARBY * stream.normal(array.shape)
        x = self.x
        if behind == 0:
            x = x + NEARBY * max(1.0, np.abs(x).max()) * stream.normal(x.shape)
        return replace(self, parameters=parameters, x=x)

    def probe(self, name: str, v: Array) -> ProbeResult:
        """Compare the slopes along a vector."""
        h = STEP / self._speed(name, v)
        far = self._slopes(name, v, h)
        if far.off_center <= self.tolerance and far.gap <= KINK * far.unit:
            return ProbeResult(far.off_center, kink=False)
        # A smaller step leaves a kink behind that is only close by. What curvature adds to the gap
        # shrinks with the step, the jump of a slope does not.
        near = self._slopes(name, v, h / CLOSER)
        return ProbeResult(near.outside, near.gap > max(far.gap / 4, self.tolerance * near.unit))

    def _speed(self, name: str, v: Array) -> float:
        """How fast z of the array's layer moves along a vector, at most."""
        d_z: Array
        if name == "x":
            d_z = v @ self.parameters.W[0].T
        elif name.startswith("W"):
            d_z = self.cache.y[layer_of(name) - 1] @ v.T
        else:
            d_z = v
        return float(np.abs(d_z).max(initial=0.0)) or 1.0

    def _largest_z(self, name: str) -> float:
        """The largest z of the layer that an array belongs to, or feeds."""
        z = self.cache.z[max(layer_of(name), 1) - 1]
        return float(np.abs(z).max(initial=0.0))

    def _slopes(self, name: str, v: Array, h: float) -> DirectionalDerivatives:
        right = (self._divergences(name, v, h) - self.base_loss) / h
        left = (self.base_loss - self._divergences(name, v, -h)) / h
        gradient = self.gradients[name]
        analytic = float(np.sum(gradient * v))
        expected = float(np.linalg.norm(gradient) * np.linalg.norm(v)) / math.sqrt(v.size)
        # A difference is no more exact than the rounding of the divergences and of z.
        rounded = float(np.sum(np.abs(self.base_loss))) + self._largest_z(name) * expected
        noise = ROUNDINGS * EPSILON * rounded / h
        lowest, highest = float(np.minimum(left, right).sum()), float(np.maximum(left, right).sum())
        unit = max(abs(analytic), abs(lowest), abs(highest), expected, noise / self.tolerance)
        return DirectionalDerivatives(analytic, lowest, highest, unit or 1.0)

    def _divergences(self, name: str, v: Array, t: float) -> Array:
        """Div of each instance where one array is t·v further, (B,)."""
        if name == "x":
            return self.network.divergences(self.parameters, self.x + t * v, self.d)
        moved = self.network.parameters(self.parameters.flat.copy())
        moved[name][...] += t * v
        return self.network.divergences(moved, self.x, self.d)


def layer_of(name: str) -> int:
    """The layer of ``W3`` or ``b3``; 0 for ``x``."""
    return 0 if name == "x" else int(name[1:])
