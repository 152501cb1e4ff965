"""Proof of gradients: analytic against numeric derivatives, layer by layer, in float64.

Two kinds of probe complement each other: single entries say *where* a gradient is wrong, and
random directions over a whole array let every entry take part. `finite_differences` compares the
derivatives of one probe.

At a kink, as of a ReLU at 0, the slopes from the left and from the right differ, and the analytic
value has to lie between the two, as a subgradient does. Where units of several layers, or many of
one, stand at a kink at once, as they do for a blank instance, what is composed of subgradients
need not lie between the slopes. So a probe that disagrees is made again from points nearby. An
entry of ``W_k`` or ``b_k`` moves one unit of layer k: where its activation is scalar, only the
layers behind it are moved off their kinks, so that it is still held to its own subgradient.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from sumgrad.model.activations.base import ScalarActivation
from sumgrad.model.divergences import Targets
from sumgrad.model.gradcheck.finite_differences import Point, ProbeResult, layer_of
from sumgrad.model.network import Network
from sumgrad.model.parameters import Parameters
from sumgrad.model.random_streams import RandomStream, Stream
from sumgrad.model.validation import Array

#: The largest relative error that counts as agreement.
TOLERANCE = 1e-6
#: How many points nearby a probe that disagrees is made again from.
POINTS = 3


@dataclass(frozen=True)
class GradientCheck:
    """What the probes of one array said.

    Attributes:
        layer: From 1; 0 for the input.
        name: ``W1``, ``b1``, …, or ``x``.
        shape: The array's.
        entries: Single entries probed.
        directions: Random directions probed.
        kinks: Probes at a kink.
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
    here = Point(wide, wide.parameters(flat), np.array(x, dtype=np.float64), d, tolerance)
    prober = _Prober(here, RandomStream(seed, Stream.GRADIENT_CHECK))
    names = [*(slot.name for slot in wide.layout.param_specs), "x"]
    return tuple(prober.check(name, entries, directions) for name in names)


@dataclass(frozen=True)
class _Prober:
    """Probes arrays at a point and, where kinks are met, nearby."""

    here: Point
    stream: RandomStream

    def check(self, name: str, entries: int, directions: int) -> GradientCheck:
        """ProbeResult one array, by single entries and in random directions."""
        shape = self.here.arrays[name].shape
        entries = min(entries, math.prod(shape))
        # One at a time: each is as large as the array.
        vectors = chain(self._entries(shape, entries), self._directions(shape, directions))
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
        for index in self.stream.permutation(math.prod(shape))[:entries]:
            v = np.zeros(shape)
            v.flat[index] = 1.0
            yield v

    def _directions(self, shape: tuple[int, ...], directions: int) -> Iterator[Array]:
        """Vectors of ±1 at random."""
        for _ in range(directions):
            yield self.stream.signs(shape)

    def _probe(self, name: str, v: Array, *, alone: bool) -> ProbeResult:
        """One probe, made again nearby while it disagrees.

        Even without a gap between the slopes: ``x = relu(x) − relu(−x)`` has none at 0, and yet
        the subgradients there add up to 0, not to 1.
        """
        first = probe = self.here.probe(name, v)
        behind = layer_of(name) if alone and self._is_scalar(name) else 0
        for _ in range(POINTS):
            if probe.agrees(self.here.tolerance):
                break
            probe = self.here.perturbed(behind, self.stream).probe(name, v)
        if probe.agrees(self.here.tolerance):
            return ProbeResult(probe.error, first.kink or probe is not first)
        # One unit alone, at a kink of its own: its subgradient is wrong.
        blamed = behind > 0 or not probe.kink
        return ProbeResult(probe.error if blamed else None, first.kink)

    def _is_scalar(self, name: str) -> bool:
        """Whether a component of the array's layer moves one output only."""
        layers = self.here.network.layers
        return isinstance(layers[layer_of(name) - 1].activation, ScalarActivation)
