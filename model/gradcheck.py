"""Proof of gradients: analytic against numeric derivatives, layer by layer, in float64.

Central differences, ``(L(w + h) − L(w − h)) / 2h``, have an error of order h² from the curvature
and of order ε/h from rounding; ``h ~ ∛ε`` balances the two. It is a step of z that is meant: h is
scaled so that the probed array moves its layer's z by ``∛ε`` at most, whatever the scale of x.

Two kinds of probe complement each other: single entries say *where* a gradient is wrong, and
random directions over a whole array let every entry take part.

At a kink, as of a ReLU at 0, the slopes from the left and from the right differ, and the analytic
value has to lie between the two, as a subgradient does. Where units of several layers, or many of
one, stand at a kink at once, as they do for a blank instance, what is composed of subgradients need
not lie between the slopes. Then the probe is made again from points nearby: for an entry of ``W_k``
or ``b_k``, which moves one unit of layer k, only the layers behind it are moved off their kinks, so
that layer k is still held to its own subgradient.
"""

import math
from collections.abc import Iterator
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
#: Where one-sided quotients differ by more than this, relatively, a kink is looked for; curvature
#: alone makes them differ by about h.
KINK = 1e-3
#: How many points nearby to try where kinks are met, and how far off they are, relatively.
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
        unresolved: Probes that met one at every point tried; they say nothing.
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
    wide = replace(network, dtype="float64")
    flat = parameters.flat.astype(np.float64)
    here = _Point(wide, wide.parameters(flat), np.array(x, dtype=np.float64), d, tolerance)
    prober = _Prober(here, np.random.default_rng(seed))
    names = [*(slot.name for slot in wide.layout.slots), "x"]
    return tuple(prober.check(name, entries, directions) for name in names)


@dataclass(frozen=True)
class _Prober:
    """Probes arrays at a point and, where kinks are met, nearby."""

    here: "_Point"
    generator: np.random.Generator

    def check(self, name: str, entries: int, directions: int) -> GradientCheck:
        """Probe one array, by single entries and in random directions."""
        shape = self.here.arrays[name].shape
        entries = min(entries, math.prod(shape))
        vectors = [*self._entries(shape, entries), *self._directions(shape, directions)]
        probes = [self._probe(name, v, alone=i < entries) for i, v in enumerate(vectors)]
        return GradientCheck(
            layer=layer_of(name),
            name=name,
            shape=shape,
            entries=entries,
            directions=directions,
            kinks=sum(probe.kink for probe in probes),
            unresolved=sum(probe.error is None for probe in probes),
            # NumPy's maximum, unlike Python's, never loses a NaN.
            error=float(np.max([p.error for p in probes if p.error is not None], initial=0.0)),
            tolerance=self.here.tolerance,
        )

    def _entries(self, shape: tuple[int, ...], entries: int) -> Iterator[Array]:
        """Unit vectors along a random choice of single entries."""
        for index in self.generator.choice(math.prod(shape), entries, replace=False):
            v = np.zeros(shape)
            v.flat[index] = 1.0
            yield v

    def _directions(self, shape: tuple[int, ...], directions: int) -> Iterator[Array]:
        for _ in range(directions):
            yield self.generator.choice([-1.0, 1.0], shape)

    def _probe(self, name: str, v: Array, *, alone: bool) -> "_Probe":
        """One probe, made again nearby while it is outside of the slopes of a kink."""
        first = probe = self.here.probe(name, v)
        behind = layer_of(name) if alone else 0
        for _ in range(POINTS):
            if not probe.kink or probe.agrees(self.here.tolerance):
                return _Probe(probe.error, first.kink)
            probe = self.here.nearby(behind, self.generator).probe(name, v)
        # One unit alone, at a kink of its own layer: its subgradient is wrong.
        blamed = behind > 0 or not probe.kink
        return _Probe(probe.error if blamed else None, first.kink)


@dataclass(frozen=True)
class _Probe:
    """A relative error, None where nothing could be said, and whether a kink was met."""

    error: float | None
    kink: bool

    def agrees(self, tolerance: float) -> bool:
        return self.error is not None and self.error <= tolerance


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

    def nearby(self, behind: int, generator: np.random.Generator) -> "_Point":
        """A point at random a little off, as to the layers behind one; behind 0, x as well."""
        parameters = self.network.parameters(self.parameters.flat.copy())
        for name, array in parameters.items():
            if layer_of(name) > behind:
                array[...] += NEARBY * generator.standard_normal(array.shape)
        x = self.x
        if behind == 0:
            x = x + NEARBY * max(1.0, np.abs(x).max()) * generator.standard_normal(x.shape)
        return replace(self, parameters=parameters, x=x)

    def probe(self, name: str, v: Array) -> _Probe:
        """Compare the slopes along a vector."""
        h = STEP / self._speed(name, v)
        far = self._slopes(name, v, h)
        if far.off_center <= self.tolerance and far.gap <= KINK * far.unit:
            return _Probe(far.off_center, kink=False)
        # A smaller step leaves a kink behind that is only close by. What curvature adds to the gap
        # shrinks with the step, the jump of a slope does not.
        near = self._slopes(name, v, h / CLOSER)
        return _Probe(near.outside, near.gap > max(far.gap / 4, self.tolerance * near.unit))

    def _speed(self, name: str, v: Array) -> float:
        """How fast z of the array's layer moves along a vector, at most."""
        d_z: Array
        if name == "x":
            d_z = v @ self.parameters.W[0].T
        elif name.startswith("W"):
            d_z = self.outputs[layer_of(name) - 1] @ v.T
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


def layer_of(name: str) -> int:
    """The layer of ``W3`` or ``b3``; 0 for ``x``."""
    return 0 if name == "x" else int(name[1:])
