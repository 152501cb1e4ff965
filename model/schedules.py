"""Learning-rate schedules: pure functions of the step, which is counted from 0."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sumgrad.model.registry import expect_count, expect_number


@dataclass(frozen=True)
class Schedule(ABC):
    """``η_step = η·factor(step)``."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """What η is multiplied with in this step."""


@dataclass(frozen=True)
class Constant(Schedule):
    """``η_step = η``."""

    def factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """``η_step = η·drop^⌊step/every⌋``.

    >>> [Step(every=2, drop=0.5).factor(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    every: int
    drop: float = 0.5

    def __post_init__(self) -> None:
        expect_count("step", self, "every")
        expect_number("step", self, "drop", 0.0, 1e6)

    def factor(self, step: int) -> float:
        return float(self.drop ** (step // self.every))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` in so many steps, then constant.

    Source: Loshchilov and Hutter, SGDR, 2017.

    >>> [round(Cosine(steps=4).factor(step), 3) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        expect_count("cosine", self, "steps")
        expect_number("cosine", self, "final", 0.0, 1.0)

    def factor(self, step: int) -> float:
        share = min(float(step / self.steps), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear growth to 1 in so many steps, then another schedule from its own step 0.

    The first step already moves: it takes ``1/steps`` of the rate, not 0.

    >>> [WarmUp(steps=2, then=Constant()).factor(step) for step in range(3)]
    [0.5, 1.0, 1.0]
    """

    steps: int
    then: Schedule

    def __post_init__(self) -> None:
        expect_count("warm-up", self, "steps")

    def factor(self, step: int) -> float:
        if step < self.steps:
            return float((step + 1) / self.steps)
        return self.then.factor(step - self.steps)


#: Every schedule that a spec can name; each may have a warm-up before it.
SCHEDULES: Mapping[str, type[Schedule]] = MappingProxyType(
    {"constant": Constant, "cosine": Cosine, "step": Step}
)
