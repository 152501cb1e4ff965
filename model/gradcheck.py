"""Proof of gradients: analytic against numeric derivatives, layer by layer, in float64.

Central differences, ``(L(w + h) − L(w − h)) / 2h``, have an error of order h² from the curvature
and of order ε/h from rounding; ``h ~ ∛ε`` balances the two. It is a step of z that is meant: h is
scaled so that the probed array moves its layer's z by ``∛ε`` at most, whatever the scale of x.

Two kinds of probe complement each other: single entries say *where* a gradient is wrong, and
random directions over a whole array let every entry take part.

At a kink, as of a ReLU at 0, the slopes from the left and from the right differ. There a single
entry's analytic value has to lie between the two, instance by instance, as a subgradient does. A
direction moves many units at once, of which several may stand at a kink; what is composed of their
subgradients need not lie between the slopes then, so it is probed again from points nearby.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from model.checks import Array
from model.divergences import Targets
from model.network import Network
from model.parameters import Parameters

#: ε and ∛ε of float64.
EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)
#: How much smaller the second step is, which tells a kink close by from one that is met.
CLOSER = 16
#: The largest relative error that counts as agreement.
TOLERANCE = 1e-6
#: Where one-sided slopes differ by more than this, relatively, the probe is at a kink. Curvature
#: makes them differ by about h; a kink by the jump of a slope.
KINK = 1e-3
#: How many points nearby to try where directions meet kinks, and how far off they are, relatively.
POINTS = 3
NEARBY = 1e-2
#: How many roundings of the last bit a divergence may be off by.
ROUNDINGS = 16


@dataclass(frozen=True)
class GradientCheck:
    """What the probes of one array said.

    Attributes:
        layer: From 1; 0 for the input.
        name: ``W1``, ``b1``, …, or ``x``.
        shape: The array's.
        entries: Single entries probed.
        directions: Random directions probed.
        kinks: Probes that met a kink.
        unresolved: Directions that met one at every point tried; they say nothing.
        error: The largest relative error of the others.
        tolerance: What it may be.
    """

    layer: int
    name: str
    shape: tuple[int, ...]
    entries: int
    directions: int
    kinks: int
    unresolved: int
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether most probes say something, and all of those agree."""
        told = self.entries + self.directions - self.unresolved
        return told > self.unresolved and self.error <= self.tolerance


def check_gradients(
    network: Network,
    parameters: Parameters,
    x: Array,
    d: Targets,
    *,
    seed: int,
    entries: int = 20,
    directions: int = 3,
    tolerance: float = TOLERANCE,
) -> tuple[GradientCheck, ...]:
    """Compare every gradient of a network with numeric derivatives.

    The error is relative to the slope, to the slope expected of a gradient of this size, or to the
    rounding of the loss, whichever is largest.

    Args:
        network: Of any dtype; the comparison is made in float64.
        parameters: Where to differentiate.
        x: A few rows, (B, D_0).
        d: Their desired outputs.
        seed: Of the entries, directions and nearby points.
        entries: Single entries to probe in each array; all of them where it has no more.
        directions: Random directions to probe in each array.
        tolerance: The relative error that is let pass.

    Returns:
        For each layer a check of W and of b, then one of the input.

    Raises:
        ShapeError: Parameters, x or d do not fit the network.
    """
    generator = np.random.default_rng(seed)
    wide = replace(network, dtype="float64")
    flat = parameters.flat.astype(np.float64)
    here = _Point(wide, wide.parameters(flat), np.array(x, dtype=np.float64), d, tolerance)
    points = [here, *(here.nearby(generator) for _ in range(POINTS))]
    return tuple(
        _check(points, name, generator, entries, directions)
        for name in [*(slot.name for slot in wide.layout.slots), "x"]
    )


def _check(
    points: Sequence["_Point"],
    name: str,
    generator: np.random.Generator,
    entries: int,
    directions: int,
) -> GradientCheck:
    """Probe one array, at the first point and, where need be, at those nearby."""
    here = points[0]
    shape = here.arrays[name].shape
    found = [here.probe(name, v) for v in _entries(shape, entries, generator)]
    kinks = sum(at_kink for _, at_kink in found)
    errors = [error for error, _ in found]
    unresolved = 0
    for _ in range(directions):
        v = generator.choice([-1.0, 1.0], shape)
        error, at_kink = here.probe(name, v)
        kinks += at_kink
        for point in points[1:]:
            if not at_kink:
                break
            error, at_kink = point.probe(name, v)
        if at_kink:
            unresolved += 1
        else:
            errors.append(error)
    return GradientCheck(
        layer=0 if name == "x" else int(name[1:]),
        name=name,
        shape=shape,
        entries=len(found),
        directions=directions,
        kinks=kinks,
        unresolved=unresolved,
        # NumPy's maximum, unlike Python's, never loses a NaN.
        error=float(np.max(errors, initial=0.0)),
        tolerance=here.tolerance,
    )


def _entries(
    shape: tuple[int, ...], entries: int, generator: np.random.Generator
) -> Iterator[Array]:
    """Unit vectors along a random choice of single entries."""
    size = int(np.prod(shape))
    for index in generator.choice(size, min(entries, size), replace=False):
        v = np.zeros(shape)
        v.flat[index] = 1.0
        yield v


@dataclass(frozen=True)
class _Slopes:
    """Derivatives along one vector: the analytic one, and both one-sided quotients' sums.

    ``lowest`` and ``highest`` take the smaller and the larger quotient of each instance.
    """

    analytic: float
    lowest: float
    highest: float
    unit: float

    @property
    def at_kink(self) -> bool:
        return self.highest - self.lowest > KINK * self.unit

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
class _Point:
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
    def middle(self) -> Array:
        """Div of each instance, (B,)."""
        return self.network.divergences(self.parameters, self.x, self.d)

    @cached_property
    def outputs(self) -> list[Array]:
        """y_0, y_1, … of each layer."""
        return self.network.forward(self.parameters, self.x).y

    def nearby(self, generator: np.random.Generator) -> "_Point":
        """A point at random a little off, where no unit stands at a kink but by chance."""
        noise = generator.standard_normal(self.parameters.flat.size)
        flat = self.parameters.flat + NEARBY * noise
        scale = NEARBY * float(np.abs(self.x).max(initial=0.0))
        x = self.x + scale * generator.standard_normal(self.x.shape)
        return replace(self, parameters=self.network.parameters(flat), x=x)

    def probe(self, name: str, v: Array) -> tuple[float, bool]:
        """The relative error along a vector, and whether the probe is at a kink."""
        h = STEP / self._speed(name, v)
        slopes = self._slopes(name, v, h)
        if slopes.off_center <= self.tolerance and not slopes.at_kink:
            return slopes.off_center, False
        # A smaller step leaves a kink behind that is only close by.
        slopes = self._slopes(name, v, h / CLOSER)
        return slopes.outside, slopes.at_kink

    def _speed(self, name: str, v: Array) -> float:
        """How fast z of the array's layer moves along a vector, at most."""
        if name == "x":
            d_z = v @ self.parameters.W[0].T
        elif name.startswith("W"):
            d_z = self.outputs[int(name[1:]) - 1] @ v.T
        else:
            d_z = v
        return float(np.abs(d_z).max(initial=0.0)) or 1.0

    def _slopes(self, name: str, v: Array, h: float) -> _Slopes:
        right = (self._divergences(name, v, h) - self.middle) / h
        left = (self.middle - self._divergences(name, v, -h)) / h
        gradient = self.gradients[name]
        analytic = float(np.sum(gradient * v))
        # A difference of two divergences is no more exact than their rounding.
        noise = ROUNDINGS * EPSILON * float(np.sum(np.abs(self.middle))) / h
        expected = float(np.linalg.norm(gradient) * np.linalg.norm(v)) / np.sqrt(v.size)
        lowest, highest = float(np.minimum(left, right).sum()), float(np.maximum(left, right).sum())
        unit = max(abs(analytic), abs(lowest), abs(highest), expected, noise / self.tolerance)
        return _Slopes(analytic, lowest, highest, unit or 1.0)

    def _divergences(self, name: str, v: Array, t: float) -> Array:
        """Div of each instance where one array is t·v further, (B,)."""
        if name == "x":
            return self.network.divergences(self.parameters, self.x + t * v, self.d)
        moved = self.network.parameters(self.parameters.flat.copy())
        moved[name][...] += t * v
        return self.network.divergences(moved, self.x, self.d)
