"""Optimizers: pure functions of the flat vector. The default is the lecture's gradient descent.

    init(W)                        -> state
    update(W, S, T, state, η)      -> W, state

S is the **sum** of the per-instance gradients over T instances, which the update divides by T. The
lecture calls the sum ∇Loss; here ``∇Loss = S/T``, the gradient of the mean divergence. The
state is a dictionary of arrays.

A weight decay λ adds ``λ·W``, the derivative of ``(λ/2)·‖W‖²``, to the mean gradient of every
parameter; `AdamW` decouples it. The formulas are those of PyTorch's optimizers of the same names,
which the tests use as oracles.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from sumgrad.model.errors import ShapeError
from sumgrad.model.options import BelowOne, Epsilon, NonNegative, Options
from sumgrad.model.registry import from_config
from sumgrad.model.validation import Array, check_dtype, check_shape

State = dict[str, Array]  #: What an optimizer keeps from step to step, arrays by name.
Out = Array | None  #: Where to write the next weights, or None to allocate them.
Update = tuple[Array, State]  #: The next weights, and the state for the next step.


@dataclass(frozen=True, kw_only=True)
class Optimizer(Options, ABC):
    """An update rule of the weights, with weight decay λ."""

    weight_decay: NonNegative = 0.0

    def init(self, W: Array) -> State:
        """Return the state before the first step."""
        return {}

    def update(
        self, W: Array, S: Array, T: int, state: State, eta: float, *, out: Out = None
    ) -> Update:
        """Return the next weights and state; only ``out`` is modified.

        Args:
            W: Parameters, (N,).
            S: Sum of the per-instance gradients, (N,), of W's dtype.
            T: The number of instances in the sum.
            state: The state from `init` or the previous step.
            eta: The learning rate η of this step.
            out: The array for the next weights, (N,), which shares no memory with the others; by
                default newly allocated.
        """
        check_shape("the gradient sum S", S, *W.shape)
        check_dtype("the gradient sum S", S, W.dtype)
        if T < 1:
            raise ShapeError(f"the gradient sum S is over T = {T} instances, expected at least 1")
        # A NumPy float64 would turn float32 weights into float64 weights; Python numbers do not.
        return self.step(W, S, int(T), state, float(eta), out)

    @abstractmethod
    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Out) -> Update:
        """Apply the equation to checked arguments, which are those of `update`."""

    def mean_gradient(self, W: Array, S: Array, T: int) -> Array:
        """Return ``S/T + λ·W``, (N,)."""
        g = S / W.dtype.type(T)
        return g + self.weight_decay * W if self.weight_decay else g


@dataclass(frozen=True, kw_only=True)
class GradientDescent(Optimizer):
    """``W ← W − (η/T)·S``.

    >>> W, _ = GradientDescent().update(np.ones(2), np.array([4.0, 8.0]), 4, {}, 0.5)
    >>> W
    array([0.5, 0. ])
    """

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Out) -> Update:
        if self.weight_decay:
            return np.subtract(W, eta * self.mean_gradient(W, S, T), out=out), state
        return np.subtract(W, np.multiply(eta / T, S, out=out), out=out), state


@dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer):
    """``v ← μ·v + g``, ``W ← W − η·v``. Source: Polyak, 1964."""

    momentum: BelowOne = 0.9

    def init(self, W: Array) -> State:
        return {"velocity": np.zeros_like(W)}

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Out) -> Update:
        v = self.momentum * state["velocity"] + self.mean_gradient(W, S, T)
        return np.subtract(W, eta * v, out=out), {"velocity": v}


@dataclass(frozen=True, kw_only=True)
class Nesterov(Momentum):
    """``v ← μ·v + g``, ``W ← W − η·(g + μ·v)``. Source: Sutskever et al., 2013."""

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Out) -> Update:
        g = self.mean_gradient(W, S, T)
        v = self.momentum * state["velocity"] + g
        return np.subtract(W, eta * (g + self.momentum * v), out=out), {"velocity": v}


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """``v ← ρ·v + (1−ρ)·g²``, ``W ← W − η·g/(√v + ε)``. Source: Hinton, lecture 6e, 2012."""

    rho: BelowOne = 0.99
    epsilon: Epsilon = 1e-8

    def init(self, W: Array) -> State:
        return {"square": np.zeros_like(W)}

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Out) -> Update:
        g = self.mean_gradient(W, S, T)
        v = self.rho * state["square"] + (1 - self.rho) * np.square(g)
        change = eta * g / (np.sqrt(v) + self.epsilon)
        return np.subtract(W, change, out=out), {"square": v}


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """``m ← β₁m + (1−β₁)g``, ``v ← β₂v + (1−β₂)g²``, ``W ← W − η·m̂/(√v̂ + ε)``.

    ``m̂ = m/(1−β₁ᵗ)`` and ``v̂ = v/(1−β₂ᵗ)`` undo the bias of starting at 0.

    Source: Kingma and Ba, 2015.
    """

    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    epsilon: Epsilon = 1e-8

    def init(self, W: Array) -> State:
        return {"mean": np.zeros_like(W), "square": np.zeros_like(W), "step": np.zeros(())}

    def direction(self, g: Array, state: State) -> Update:
        """Return ``m̂/(√v̂ + ε)`` and the next state."""
        t = float(state["step"]) + 1
        m = self.beta1 * state["mean"] + (1 - self.beta1) * g
        v = self.beta2 * state["square"] + (1 - self.beta2) * np.square(g)
        m_hat = m / g.dtype.type(1 - self.beta1**t)
        v_hat = v / g.dtype.type(1 - self.beta2**t)
        direction = m_hat / (np.sqrt(v_hat) + self.epsilon)
        return direction, {"mean": m, "square": v, "step": np.array(t)}

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Out) -> Update:
        direction, state = self.direction(self.mean_gradient(W, S, T), state)
        return np.subtract(W, eta * direction, out=out), state


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: ``W ← (1 − ηλ)·W − η·m̂/(√v̂ + ε)``.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """

    weight_decay: NonNegative = 0.01

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Out) -> Update:
        direction, state = self.direction(S / W.dtype.type(T), state)
        decayed = (1 - eta * self.weight_decay) * W
        return np.subtract(decayed, eta * direction, out=out), state


#: Every optimizer that a spec can name.
OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {
        "adam": Adam,
        "adamw": AdamW,
        "gradient_descent": GradientDescent,
        "momentum": Momentum,
        "nesterov": Nesterov,
        "rmsprop": RMSprop,
    }
)
#: Other accepted names of optimizers.
OPTIMIZER_ALIASES: Mapping[str, str] = MappingProxyType({"sgd": "gradient_descent"})


def make_optimizer(name: str, **options: Any) -> Optimizer:
    """Create the optimizer that a spec names.

    >>> make_optimizer("sgd")
    GradientDescent(weight_decay=0.0)
    """
    name = OPTIMIZER_ALIASES.get(name, name)
    return from_config("optimizer", OPTIMIZERS, {"name": name, **options})
