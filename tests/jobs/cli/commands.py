"""Running commands in the test's process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only line on stdout."""
        (line,) = self.out.strip().splitlines()
        return json.loads(line)


Sumgrad = Callable[..., Result]


def error_line(result: Result, *, as_json: bool = False) -> str:
    """Return the error line after checking that only a hint follows, with --json on stdout too."""
    error, *hint = result.err.strip().splitlines()
    assert error.startswith("error: ")
    assert len(hint) <= 1
    assert all(line.startswith("hint: ") for line in hint)
    if as_json:
        assert result.json == {
            "error": error.removeprefix("error: "),
            "hint": hint[0].removeprefix("hint: ") if hint else None,
            "exit_code": result.code,
        }
    else:
        assert result.out == ""
    return error
