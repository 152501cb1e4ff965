"""Proof of gradients: analytic against numeric derivatives, layer by layer, in float64.

Central differences, ``(L(w + h) − L(w − h)) / 2h``, have an error of order h² from the curvature
and of order ε/h from rounding; ``h ~ ∛ε`` balances the two at about 1e-10 of the scale.

Two kinds of probe complement each other: single entries say *where* a gradient is wrong, and
random directions over a whole array let every entry take part. At a kink, as of a ReLU, the
derivatives from the left and from the right differ and no difference quotient says anything of the
subgradient chosen; such a probe is made again at points nearby, where the function is smooth.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.checks import Array
from model.divergences import Targets
from model.network import Network
from model.parameters import Parameters

#: ∛ε of float64.
STEP = float(np.cbrt(np.finfo(np.float64).eps))
#: The largest relative error that counts as agreement.
TOLERANCE = 1e-6
#: Where one-sided slopes differ by more than this, relatively, the probe is at a kink. Curvature
#: makes them differ by about h; a kink by the jump of a slope.
KINK = 1e-3
#: Points to try where kinks are met, and how far off they are, relatively.
POINTS = 4
NEARBY = 1e-3
#: How many roundings of the last bit a sum of divergences may be off by.
ROUNDINGS = 8


@dataclass(frozen=True)
class GradientCheck:
    """What the probes of one array said.

    Attributes:
        layer: From 1; 0 for the input.
        name: ``W1``, ``b1``, …, or ``x``.
        shape: The array's.
        entries: Single entries probed.
        directions: Random directions probed.
        kinks: Probes that met a kink, and were made again nearby.
        unresolved: Probes that met one at every point tried.
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

    Args:
        network: Of any dtype; the comparison is made in float64.
        parameters: Where to differentiate.
        x: A few rows, (B, D_0).
        d: Their desired outputs.
        seed: Of the entries and directions probed.
        entries: Single entries to probe in each array; all of them where it has no more.
        directions: Random directions to probe in each array.
        tolerance: The relative error that is let pass.

    Returns:
        For each layer a check of W and of b, then one of the input.
    """
    network = replace(network, dtype="float64")
    x = x.astype(np.float64)
    weights = _Function(
        value=lambda flat: float(network.divergences(network.parameters(flat), x, d).sum()),
        gradient=lambda flat: network.gradient_sum(network.parameters(flat), x, d).gradients.flat,
    )
    generator = np.random.default_rng(seed)
    prober = _Prober(generator, entries, directions, tolerance)
    flat = parameters.flat.astype(np.float64)
    checks = [
        prober.check(
            weights,
            flat,
            np.arange(slot.offset, slot.offset + slot.size),
            name=slot.name,
            layer=number // 2 + 1,
            shape=slot.shape,
        )
        for number, slot in enumerate(network.layout.slots)
    ]
    inputs = _Function(
        value=lambda rows: float(
            network.divergences(network.parameters(flat), rows.reshape(x.shape), d).sum()
        ),
        gradient=lambda rows: network.input_gradient(
            network.parameters(flat), rows.reshape(x.shape), d
        ).reshape(-1),
    )
    everywhere = np.arange(x.size)
    at = x.reshape(-1)
    return (*checks, prober.check(inputs, at, everywhere, name="x", layer=0, shape=x.shape))


@dataclass(frozen=True)
class _Function:
    """A sum of divergences as a function of a flat vector, and its analytic gradient."""

    value: Callable[[Array], float]
    gradient: Callable[[Array], Array]


@dataclass(frozen=True)
class _Prober:
    """Compares analytic with numeric derivatives.

    Attributes:
        generator: Chooses entries, directions and nearby points.
        entries: Single entries of each array.
        directions: Random directions of each array.
        tolerance: The relative error that is let pass.
    """

    generator: np.random.Generator
    entries: int
    directions: int
    tolerance: float

    def check(
        self,
        function: _Function,
        at: Array,
        where: NDArray[np.intp],
        *,
        name: str,
        layer: int,
        shape: tuple[int, ...],
    ) -> GradientCheck:
        """Probe one array: the arguments ``where`` of a function's vector ``at``."""
        entries = min(self.entries, len(where))
        probes = list(self._vectors(len(where), entries))
        errors: list[float] = []
        met_kinks = 0
        for point in self._points(at):
            gradient = function.gradient(point)[where]
            compared = [self._compare(function, point, where, gradient, v) for v in probes]
            errors.extend(error for error in compared if error is not None)
            probes = [v for v, error in zip(probes, compared, strict=True) if error is None]
            met_kinks = met_kinks or len(probes)
            if not probes:
                break
        return GradientCheck(
            layer=layer,
            name=name,
            shape=shape,
            entries=entries,
            directions=self.directions,
            kinks=met_kinks,
            unresolved=len(probes),
            # NumPy's maximum, unlike Python's, never loses a NaN.
            error=float(np.max(errors, initial=0.0)),
            tolerance=self.tolerance,
        )

    def _vectors(self, size: int, entries: int) -> Iterator[Array]:
        """Unit vectors along single entries, then in random directions."""
        for index in self.generator.choice(size, entries, replace=False):
            unit = np.zeros(size)
            unit[index] = 1.0
            yield unit
        for _ in range(self.directions):
            direction = self.generator.standard_normal(size)
            yield direction / np.linalg.norm(direction)

    def _points(self, at: Array) -> Iterator[Array]:
        """The point in question, then some nearby."""
        yield at
        scale = NEARBY * max(1.0, float(np.abs(at).max(initial=0.0)))
        for _ in range(POINTS - 1):
            yield at + scale * self.generator.standard_normal(at.shape)

    def _compare(
        self,
        function: _Function,
        at: Array,
        where: NDArray[np.intp],
        gradient: Array,
        vector: Array,
    ) -> float | None:
        """The relative error along a unit vector; None at a kink."""
        h = STEP * max(1.0, float(np.abs(at[where][vector != 0]).max(initial=0.0)))
        step = np.zeros_like(at)
        step[where] = h * vector
        middle = function.value(at)
        right = (function.value(at + step) - middle) / h
        left = (middle - function.value(at - step)) / h
        analytic = float(gradient @ vector)
        # A difference of two sums is no more exact than their rounding.
        noise = ROUNDINGS * np.finfo(np.float64).eps * abs(middle) / h
        floor = max(1e-3 * float(np.abs(gradient).max(initial=0.0)), noise / self.tolerance)
        unit = max(abs(left), abs(right), abs(analytic), floor)
        if abs(right - left) > KINK * unit:
            return None
        error = abs(analytic - (left + right) / 2)
        # 0/0 is agreement: a gradient of 0 that nothing contradicts.
        return error / unit if unit else error
