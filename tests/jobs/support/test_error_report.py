"""Errors as users see them."""

import json
import sys

import pytest

from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.support.error_report import ResultPrinted, run_guarded

SPACE = "free some space on that disk and try again"


def run_failing(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, object]]:
    def fail() -> int:
        raise error

    code = run_guarded(fail, debug=False, as_json=True)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert "Traceback" not in printed.err
    value: dict[str, object] = json.loads(printed.out)
    return code, value


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (ServiceUnreachable("it is\naway", hint="wait"), 3, ["it is away", "wait"]),
        (OSError(28, "No space left on device"), 1, ["No space left on device", SPACE]),
        (OSError(13, "Permission denied", "/x"), 1, ["/x: Permission denied", None]),
        (ServiceUnreachable("GET http://me:s3cr3t@h"), 3, ["GET http://***@h", None]),
    ],
)
def test_an_error_is_one_object(
    error: Exception, code: int, expected: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    ended, value = run_failing(error, capsys)
    message, hint = expected
    assert (ended, value) == (code, {"error": message, "hint": hint, "exit_code": code})


def test_a_defect_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    code, value = run_failing(ZeroDivisionError("division by zero"), capsys)
    assert code == 1
    assert value["error"] == "internal error: ZeroDivisionError: division by zero"


def test_a_printed_result_is_not_followed_by_an_error_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> int:
        sys.stdout.write('{"run_id": null}\n')
        raise ResultPrinted from ServiceUnreachable("it is away")

    assert run_guarded(fail, debug=False, as_json=True) == 3
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ('{"run_id": null}\n', "error: it is away\n")
