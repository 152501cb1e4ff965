"""Things that a spec names: ``relu``, or ``{name: leaky_relu, slope: 0.1}``."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from model.checks import nearest
from model.errors import OptionError

T = TypeVar("T")


def build(kind: str, registry: Mapping[str, type[T]], named: str | Mapping[str, Any]) -> T:
    """Make the registered dataclass that ``named`` asks for.

    Args:
        kind: What it is, for the message: 'activation', 'initializer', …
        registry: Names and the frozen dataclasses they stand for.
        named: A name, or a mapping of ``name`` and the dataclass's own fields.

    Raises:
        OptionError: An unknown name, an option that it does not have, or a value it refuses.
    """
    options = {"name": named} if isinstance(named, str) else dict(named)
    name = options.pop("name", None)
    if name is None:
        raise OptionError(f"this {kind} has no name", hint=f"known: {', '.join(sorted(registry))}")
    if name not in registry:
        raise OptionError(f"unknown {kind} '{name}'", hint=nearest(name, registry))
    maker = registry[name]
    known = {field.name: field for field in fields(maker) if field.init}  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise OptionError(
                f"{kind} '{name}' has no option '{option}'",
                hint=nearest(option, known) if known else "it takes none",
            )
    for field in known.values():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in options:
            raise OptionError(f"{kind} '{name}' needs the option '{field.name}'")
    return maker(**options)


def expect_number(kind: str, option: str, value: object, low: float, high: float) -> None:
    """Raise unless ``low ≤ value ≤ high`` and it is a number.

    Raises:
        OptionError: Names the option, the value and the limits.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]  # number is checked first
        raise OptionError(f"{kind}: {option} is {value!r}, expected a number from {low} to {high}")
