"""Things that a spec names: ``relu``, or ``{name: leaky_relu, slope: 0.1}``."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from sumgrad.model.errors import OptionError
from sumgrad.model.validation import did_you_mean

T = TypeVar("T")


def from_config(kind: str, registry: Mapping[str, type[T]], named: str | Mapping[str, Any]) -> T:
    """Make the registered dataclass that ``named`` asks for.

    Args:
        kind: What it is, for the message: 'activation', 'initializer', …
        registry: Names and the frozen dataclasses they stand for.
        named: A name, or a mapping of ``name`` and the dataclass's own fields.

    Raises:
        OptionError: An unknown name, an option that it does not have, or a value it refuses.
    """
    if not isinstance(named, str | Mapping):
        raise OptionError(f"{kind} is {named!r}, expected a name, or a name and its options")
    options = {"name": named} if isinstance(named, str) else dict(named)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise OptionError(f"this {kind} has no name", hint=f"known: {', '.join(sorted(registry))}")
    if name not in registry:
        raise OptionError(f"unknown {kind} '{name}'", hint=did_you_mean(name, registry))
    maker = registry[name]
    known = {field.name: field for field in fields(maker) if field.init}  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise OptionError(
                f"{kind} '{name}' has no option '{option}'",
                hint=did_you_mean(str(option), known) if known else "it takes none",
            )
    for field in known.values():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in options:
            raise OptionError(f"{kind} '{name}' needs the option '{field.name}'")
    return maker(**options)


def validate_number(
    kind: str, thing: object, option: str, low: float, high: float, *, below: bool = False
) -> None:
    """Raise unless an option is a number with ``low ≤ value ≤ high``; keep it as a plain float.

    A NumPy scalar would be kept otherwise, and turn float32 arrays into float64 ones.

    Args:
        kind: What the thing is called, for the message.
        thing: The frozen dataclass that has the option.
        option: Its name.
        low: The least value.
        high: The greatest value.
        below: Whether the value has to be less than ``high``.

    Raises:
        OptionError: Names the option, the value and the limits.
    """
    value = getattr(thing, option)
    number = not isinstance(value, bool) and isinstance(value, Real)
    if not number or not low <= value <= high or (below and value == high):
        limit = f"below {high}" if below else f"to {high}"
        raise OptionError(f"{kind}: {option} is {value!r}, expected a number from {low} {limit}")
    object.__setattr__(thing, option, float(value))


def validate_positive_int(kind: str, thing: object, option: str) -> None:
    """Raise unless an option is a whole number from 1; keep it as a plain int.

    Raises:
        OptionError: Names the option and the value.
    """
    value = getattr(thing, option)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise OptionError(f"{kind}: {option} is {value!r}, expected a whole number from 1")
    object.__setattr__(thing, option, int(value))
