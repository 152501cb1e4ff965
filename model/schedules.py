"""Learning-rate schedules: pure functions of the step, from 0."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sumgrad.model.options import Fraction, NonNegative, Options, PositiveInt


@dataclass(frozen=True)
class Schedule(Options, ABC):
    """``η_step = η·factor(step)``."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """Return the factor by which η is multiplied in this step."""


@dataclass(frozen=True)
class Constant(Schedule):
    """``η_step = η``."""

    def factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``η_step = η·decay_rate^⌊step/step_size⌋``.

    >>> [StepDecay(step_size=2, decay_rate=0.5).factor(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    step_size: PositiveInt
    decay_rate: NonNegative = 0.5

    def factor(self, step: int) -> float:
        return float(self.decay_rate ** (step // self.step_size))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` over ``steps`` steps, then constant.

    Source: Loshchilov and Hutter, SGDR, 2017.

    >>> [round(Cosine(steps=4).factor(step), 3) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    steps: PositiveInt
    final: Fraction = 0.0

    def factor(self, step: int) -> float:
        share = min(float(step / self.steps), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear growth to 1 over ``steps`` steps, then ``schedule`` from its step 0.

    The first step uses ``1/steps`` of the rate, not 0.

    >>> [Warmup(steps=2, schedule=Constant()).factor(step) for step in range(3)]
    [0.5, 1.0, 1.0]
    """

    steps: PositiveInt
    schedule: Schedule

    def factor(self, step: int) -> float:
        if step < self.steps:
            return float((step + 1) / self.steps)
        return self.schedule.factor(step - self.steps)


#: Every schedule that a spec can name; `Warmup` can precede each.
SCHEDULES: Mapping[str, type[Schedule]] = MappingProxyType(
    {"constant": Constant, "cosine": Cosine, "step": StepDecay}
)
