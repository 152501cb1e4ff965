"""Comparison of analytic with numeric gradients, layer by layer, in float64.

Probes of single entries show *where* a gradient is wrong; probes in random directions cover every
entry of an array.

At a kink, such as that of a ReLU at 0, the derivatives from the left and from the right differ, and
the analytic value must lie between them, as a subgradient does. If many units are at a kink at
once, as they are for a blank instance, a product of subgradients may lie outside. So a probe that
disagrees is repeated at perturbed points. An entry of ``W_k`` or ``b_k`` moves one unit of layer k;
if its activation is scalar, only the later layers are perturbed, so that the unit's own subgradient
is still checked.
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

TOLERANCE = 1e-6  #: The largest relative error that counts as agreement.
RETRIES = 3  #: At how many perturbed points a probe that disagrees is repeated.


@dataclass(frozen=True)
class GradientCheck:
    """The result of the probes of one array."""

    layer: int  #: From 1; 0 for the input.
    name: str  #: ``W1``, ``b1``, …, or ``x``.
    shape: tuple[int, ...]
    entries: int  #: The number of single entries probed.
    directions: int  #: The number of random directions probed.
    kinks: int  #: The number of probes at a kink.
    unresolved: int  #: The number of probes at a kink at every point, which prove nothing.
    error: float  #: The largest relative error of the other probes.
    tolerance: float  #: The largest relative error that passes.

    @property
    def ok(self) -> bool:
        """Whether more than half of the probes are resolved, and those agree."""
        resolved = self.entries + self.directions - self.unresolved
        return resolved > self.unresolved and self.error <= self.tolerance


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

    The error is relative to the derivative, to the derivative expected for a gradient of this norm,
    or to the rounding error of the loss, whichever is largest.

    Args:
        network: The network, of any dtype; the comparison uses float64.
        parameters: The point at which to differentiate.
        x: A few rows, (B, D_0).
        d: Their desired outputs.
        seed: The seed of entries, directions and perturbations.
        entries: The maximum number of single entries to probe in each array.
        directions: The number of random directions to probe in each array.
        tolerance: The largest relative error that passes.

    Returns:
        A check of W and of b for each layer, then one of the input.
    """
    wide = replace(network, dtype="float64")
    flat = parameters.flat.astype(np.float64)
    point = Point(wide, wide.parameters(flat), np.array(x, dtype=np.float64), d, tolerance)
    prober = _Prober(point, RandomStream(seed, Stream.GRADIENT_CHECK))
    names = [*(spec.name for spec in wide.layout.param_specs), "x"]
    return tuple(prober.check(name, entries, directions) for name in names)


@dataclass(frozen=True)
class _Prober:
    """Probes of arrays at a point and, at kinks, at perturbed points."""

    point: Point
    stream: RandomStream

    def check(self, name: str, entries: int, directions: int) -> GradientCheck:
        """Probe single entries and random directions of one array."""
        shape = self.point.arrays[name].shape
        entries = min(entries, math.prod(shape))
        # Generated lazily, because each vector is as large as the array.
        signs = (self.stream.signs(shape) for _ in range(directions))
        vectors = chain(self._entries(shape, entries), signs)
        probes = [self._probe(name, v, single=i < entries) for i, v in enumerate(vectors)]
        return GradientCheck(
            layer=layer_of(name),
            name=name,
            shape=shape,
            entries=entries,
            directions=directions,
            kinks=sum(probe.kink for probe in probes),
            unresolved=sum(probe.error is None for probe in probes),
            # Unlike Python's maximum, NumPy's propagates NaN.
            error=float(np.max([p.error for p in probes if p.error is not None], initial=0.0)),
            tolerance=self.point.tolerance,
        )

    def _entries(self, shape: tuple[int, ...], entries: int) -> Iterator[Array]:
        """Yield unit vectors along randomly chosen entries."""
        for index in self.stream.permutation(math.prod(shape))[:entries]:
            v = np.zeros(shape)
            v.flat[index] = 1.0
            yield v

    def _probe(self, name: str, v: Array, *, single: bool) -> ProbeResult:
        """Probe once, and repeat at perturbed points while the probe disagrees.

        A gap between the one-sided derivatives is not required for that: ``x = relu(x) − relu(−x)``
        has none at 0, but the subgradients add up to 0 there, not to 1.
        """
        first = probe = self.point.probe(name, v)
        after = layer_of(name) if single and self._is_scalar(name) else 0
        for _ in range(RETRIES):
            if probe.agrees(self.point.tolerance):
                break
            probe = self.point.perturbed(after, self.stream).probe(name, v)
        if probe.agrees(self.point.tolerance):
            return ProbeResult(probe.error, first.kink or probe is not first)
        # The only unit at a kink is the probed one, so its subgradient is wrong.
        wrong = after > 0 or not probe.kink
        return ProbeResult(probe.error if wrong else None, first.kink)

    def _is_scalar(self, name: str) -> bool:
        """Return whether each component of z of the array's layer affects a single output."""
        if name == "x":
            return False
        layers = self.point.network.layers
        return isinstance(layers[layer_of(name) - 1].activation, ScalarActivation)
