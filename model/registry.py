"""Objects from their configuration: ``relu``, or ``{name: leaky_relu, slope: 0.1}``."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from sumgrad.model.errors import OptionError
from sumgrad.model.validation import did_you_mean

T = TypeVar("T")


def from_config(kind: str, registry: Mapping[str, type[T]], config: str | Mapping[str, Any]) -> T:
    """Create the registered dataclass that ``config`` describes.

    Args:
        kind: What the registry holds, for the message: 'activation', 'initializer', …
        registry: Frozen dataclasses by name.
        config: A name, or a mapping of ``name`` and the dataclass's fields.
    """
    if not isinstance(config, str | Mapping):
        raise OptionError(f"{kind} is {config!r}, expected a name, or a name and its options")
    options = {"name": config} if isinstance(config, str) else dict(config)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise OptionError(f"{kind} has no name", hint=f"known: {', '.join(sorted(registry))}")
    if name not in registry:
        raise OptionError(f"unknown {kind} '{name}'", hint=did_you_mean(name, registry))
    cls = registry[name]
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise OptionError(
                f"{kind} '{name}' has no option '{option}'",
                hint=did_you_mean(str(option), known) if known else "it takes no options",
            )
    for field in known.values():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in options:
            raise OptionError(f"{kind} '{name}' needs the option '{field.name}'")
    return cls(**options)


def validate_number(
    kind: str, config: object, option: str, low: float, high: float, *, exclusive: bool = False
) -> None:
    """Raise `OptionError` unless an option is a number from ``low`` to ``high``; make it a float.

    A NumPy scalar would turn float32 arrays into float64 arrays.

    Args:
        kind: What the message calls the object.
        config: The frozen dataclass that has the option.
        option: The field's name.
        low: The minimum.
        high: The maximum.
        exclusive: Whether the value must be below ``high``.
    """
    value = getattr(config, option)
    number = not isinstance(value, bool) and isinstance(value, Real)
    if not number or not low <= value <= high or (exclusive and value == high):
        limits = f">= {low:g} and {'<' if exclusive else '<='} {high:g}"
        raise OptionError(f"{kind}: {option} is {value!r}, expected a number {limits}")
    object.__setattr__(config, option, float(value))


def validate_positive_int(kind: str, config: object, option: str) -> None:
    """Raise `OptionError` unless an option is an integer >= 1; store it as an int."""
    value = getattr(config, option)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise OptionError(f"{kind}: {option} is {value!r}, expected an integer >= 1")
    object.__setattr__(config, option, int(value))
