"""Numeric options: their limits, and the types in which they are stored."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from sumgrad.model.errors import OptionError
from sumgrad.model.optimizers import Nesterov
from sumgrad.model.options import BelowOne, Fraction, Options, PositiveInt


@dataclass(frozen=True)
class Thing(Options):
    value: Fraction = 0.5
    below: BelowOne = 0.5
    count: PositiveInt = 1
    other: Any = None


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.int64(1), np.float64(0)])
def test_a_number_within_the_limits_is_stored_as_a_float(value: Any) -> None:
    thing = Thing(value)
    assert type(thing.value) is float
    assert thing.value == value


@pytest.mark.parametrize(
    "value", [-1e-9, 1.0001, float("nan"), float("inf"), True, "0.5", None, 0.5j, np.array([0.5])]
)
def test_a_value_outside_of_the_limits_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=r"Thing: value is .*, expected a number >= 0 and <= 1"):
        Thing(value)
    with pytest.raises(OptionError, match="Thing: value is"):
        replace(Thing(), value=value)


def test_the_maximum_may_be_exclusive() -> None:
    assert Thing(below=float(np.nextafter(1, 0))).below < 1
    with pytest.raises(OptionError, match="below is 1, expected a number >= 0 and < 1"):
        Thing(below=1)


@pytest.mark.parametrize("value", [1, 7, np.int32(3), np.uint8(2)])
def test_a_positive_integer_is_stored_as_an_int(value: Any) -> None:
    thing = Thing(count=value)
    assert type(thing.count) is int
    assert thing.count == value


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, np.float64(2)])
def test_a_value_that_is_no_positive_integer_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=r"Thing: count is .*, expected an integer >= 1"):
        Thing(count=value)


def test_fields_of_other_types_are_not_checked() -> None:
    assert Thing(other=np.float32(2)).other.dtype == np.float32


def test_inherited_options_are_checked() -> None:
    with pytest.raises(OptionError, match="Nesterov: weight_decay is -1"):
        Nesterov(weight_decay=-1)
    with pytest.raises(OptionError, match="Nesterov: momentum is 1"):
        Nesterov(momentum=1)
