"""The root of every error that sumgrad declares, and the errors of the mathematics.

The tree, whole:

    SumgradError
    ├── ModelError            (here)      a shape, a name or an option that does not fit
    │   ├── ShapeError
    │   └── OptionError
    ├── ClusterError          (sumgrad.cluster.errors)
    └── JobError              (sumgrad.jobs.errors)
"""

from typing import Any, Self


class SumgradError(Exception):
    """Something went wrong in a way that we foresaw: one line and a hint.

    Args:
        message: Names the cause. What a person or a file put into it cannot break the line, nor
            send anything but text to a terminal.
        hint: What to do about it; empty where there is nothing to say.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = "".join(c if c.isprintable() else " " for c in message)
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # The facts live in keyword attributes, which Exception's own pickling drops.
        return _rebuild, (type(self), self.args, self.__dict__)

    @classmethod
    def _bare(cls, args: tuple[Any, ...], facts: dict[str, Any]) -> Self:
        error = cls.__new__(cls, *args)
        error.args = args
        error.__dict__.update(facts)
        return error


def _rebuild(
    kind: type[SumgradError], args: tuple[Any, ...], facts: dict[str, Any]
) -> SumgradError:
    return kind._bare(args, facts)  # noqa: SLF001 - the other half of __reduce__


class ModelError(SumgradError):
    """A network, an array or an option that the mathematics cannot take."""


class ShapeError(ModelError):
    """An array whose shape, dtype or range is not what the equation needs."""


class OptionError(ModelError):
    """An unknown activation, divergence, … or an option that it does not have."""
