"""Objects from their configuration: ``relu``, or ``{name: leaky_relu, slope: 0.1}``."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from sumgrad.model.errors import OptionError
from sumgrad.model.validation import did_you_mean

T = TypeVar("T")


def from_config(kind: str, registry: Mapping[str, type[T]], config: str | Mapping[str, Any]) -> T:
    """Create a registered dataclass from its name, or from a mapping of ``name`` and its fields.

    ``kind`` is what the registry holds, for the message: 'activation', 'initializer', …
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
