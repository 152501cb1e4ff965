"""Numeric options of layers, optimizers and others; their types state their limits."""

import math
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple, get_type_hints

from sumgrad.model.errors import OptionError


class Limits(NamedTuple):
    """The numbers that an option accepts, also as text."""

    number: type
    low: float
    high: float
    text: str


PositiveInt = Annotated[int, Limits(Integral, 1, math.inf, "an integer >= 1")]
NonNegative = Annotated[float, Limits(Real, 0, 1e6, "a number >= 0 and <= 1e6")]
Fraction = Annotated[float, Limits(Real, 0, 1, "a number >= 0 and <= 1")]
BelowOne = Annotated[float, Limits(Real, 0, math.nextafter(1, 0), "a number >= 0 and < 1")]
Epsilon = Annotated[float, Limits(Real, 1e-30, 1, "a number >= 1e-30 and <= 1")]


class Options:
    """A base class of frozen dataclasses that checks the fields of these types."""

    def __post_init__(self) -> None:
        """Raise `OptionError` if a field exceeds its limits; store it as a float or an int.

        A NumPy scalar would turn float32 arrays into float64 arrays.
        """
        for option, kind in get_type_hints(type(self), include_extras=True).items():
            for limits in getattr(kind, "__metadata__", ()):
                value: Any = getattr(self, option)
                is_number = isinstance(value, limits.number) and not isinstance(value, bool)
                if not is_number or not limits.low <= value <= limits.high:
                    where = f"{type(self).__name__}: {option}"
                    raise OptionError(f"{where} is {value!r}, expected {limits.text}")
                number = int(value) if limits.number is Integral else float(value)
                object.__setattr__(self, option, number)
