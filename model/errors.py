"""The base class of all errors of sumgrad, and the errors of the mathematics.

The hierarchy:

    SumgradError
    ├── ModelError            (here)      an invalid shape, name or option
    │   ├── ShapeError
    │   └── OptionError
    ├── ClusterError          (sumgrad.cluster.errors)
    └── JobError              (sumgrad.jobs.errors)
"""

from typing import Any


class SumgradError(Exception):
    """A foreseen error: a message of one line with the cause, and a hint how to fix it, if any.

    Unprintable characters of the message, which may come from user input, become spaces, so that
    they cannot break the line or control the terminal.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = "".join(c if c.isprintable() else " " for c in message)
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling calls `__init__` with args, but subclasses take other arguments.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class ModelError(SumgradError):
    """An invalid network, array or option."""


class ShapeError(ModelError):
    """An array of the wrong shape, dtype or range."""


class OptionError(ModelError):
    """An unknown name of an activation, divergence, …, or an invalid option."""
