"""Schedules step by step, against their formulas and PyTorch's."""

import math
from typing import Any

import pytest

from sumgrad.model import SCHEDULES, OptionError, Schedule
from sumgrad.model.registry import from_config
from sumgrad.model.schedules import Constant, Cosine, StepDecay, Warmup

#: For each registered schedule some options and the factors of its first steps.
CASES: dict[str, tuple[dict[str, object], list[float]]] = {
    "constant": ({}, [1, 1, 1, 1, 1, 1, 1]),
    "cosine": (
        {"steps": 4, "final": 0.2},
        [1, 0.882842712474619, 0.6, 0.317157287525381, 0.2, 0.2],
    ),
    "step": ({"step_size": 3, "decay_rate": 0.1}, [1, 1, 1, 0.1, 0.1, 0.1, 0.01]),
}


def test_every_registered_schedule_has_a_case() -> None:
    assert set(CASES) == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_factors(name: str) -> None:
    options, expected = CASES[name]
    schedule: Schedule = from_config("schedule", SCHEDULES, {"name": name, **options})
    factors = [schedule.factor(step) for step in range(len(expected))]
    assert factors == pytest.approx(expected, rel=1e-14)
    assert {type(factor) for factor in factors} == {float}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_first_step_has_the_whole_rate_and_none_grows(name: str) -> None:
    schedule: Schedule = from_config("schedule", SCHEDULES, {"name": name, **CASES[name][0]})
    factors = [schedule.factor(step) for step in range(50)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)


def test_cosine_is_symmetric_and_ends_exactly() -> None:
    cosine = Cosine(steps=10)
    for step in range(11):
        assert cosine.factor(step) + cosine.factor(10 - step) == pytest.approx(1)
        assert cosine.factor(step) == pytest.approx(math.cos(math.pi * step / 20) ** 2, abs=1e-15)
    assert cosine.factor(10) == cosine.factor(10**9) == 0


def test_warmup_grows_to_one_then_starts_the_schedule_at_step_zero() -> None:
    cosine = Cosine(steps=4)
    factors = [Warmup(steps=4, schedule=cosine).factor(step) for step in range(9)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1]
    assert factors[4:] == [cosine.factor(step) for step in range(5)]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"name": "step"}, "needs the option 'step_size'"),
        ({"name": "cosine"}, "needs the option 'steps'"),
        ({"name": "step", "step_size": 0}, "step_size is 0"),
        ({"name": "step", "step_size": 1.5}, "step_size is 1.5"),
        ({"name": "step", "step_size": 1, "decay_rate": -0.1}, "decay_rate is -0.1"),
        ({"name": "cosine", "steps": True}, "steps is True"),
        ({"name": "cosine", "steps": 3, "final": 1.1}, "final is 1.1"),
        ({"name": "cosinus", "steps": 3}, "unknown schedule 'cosinus'"),
        ({"name": "constant", "steps": 3}, "no option 'steps'"),
    ],
)
def test_invalid_options_are_refused(named: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        from_config("schedule", SCHEDULES, named)


def test_a_warmup_without_steps_is_refused() -> None:
    with pytest.raises(OptionError, match="steps is 0"):
        Warmup(steps=0, schedule=Constant())


def test_against_pytorch() -> None:
    torch: Any = pytest.importorskip("torch")
    rates = torch.optim.lr_scheduler
    pairs: list[tuple[Schedule, Any, dict[str, float]]] = [
        (StepDecay(step_size=3, decay_rate=0.3), rates.StepLR, {"step_size": 3, "gamma": 0.3}),
        (Cosine(12, 0.1), rates.CosineAnnealingLR, {"T_max": 12, "eta_min": 0.1}),
    ]
    for ours, kind, options in pairs:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        theirs = kind(optimizer, **options)
        for step in range(13):
            assert ours.factor(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
            optimizer.step()
            theirs.step()


def test_counting_steps_from_one_is_caught() -> None:
    for name, kind in (("step", StepDecay), ("cosine", Cosine)):
        options, expected = CASES[name]
        schedule = from_config("schedule", SCHEDULES, {"name": name, **options})
        assert isinstance(schedule, kind)
        late = [schedule.factor(step + 1) for step in range(len(expected))]
        assert late != pytest.approx(expected, rel=1e-3)
