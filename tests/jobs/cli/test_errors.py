"""How commands end: a line, a hint, an exit code, and an object for scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sumgrad.jobs.cli
from sumgrad.jobs.cli.app import run

SPACE = "free some space on that disk and try again"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    capsys.readouterr()
    code = run(list(arguments))
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err.splitlines()


REFUSED = [
    # arguments → exit code, part of the error
    (("train", "nothing"), 2, "is named 'nothing'"),
    (("train",), 2, "Missing argument"),
    (("train", "digits", "--set", "sed=1"), 2, "unknown key"),
    (("train", "digits", "--set", "cluster.address=127.0.0.1:9"), 3, "no Ray cluster answers"),
    (("train", "digits", "--nonsense"), 2, "No such option"),
    (("resume", "0123456789"), 2, "no run 0123456789"),
    (("nonsense",), 2, "No such command"),
    (("wait", "x-1"), 2, "no cluster is selected"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), REFUSED)
def test_refusals_are_a_line_and_with_json_an_object(
    arguments: tuple[str, ...], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, err = call(capsys, *arguments, "--json")
    assert (ended, text in err[0]) == (code, True)
    hint = err[1].removeprefix("hint: ") if len(err) > 1 else None
    expected = {"error": err[0].removeprefix("error: "), "hint": hint, "exit_code": code}
    assert json.loads(out[-1]) == expected
    assert len(out) == 1
    assert call(capsys, *arguments) == (code, [], err)


def test_json_after_two_dashes_is_an_argument(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = call(capsys, "train", "--", "--json")
    assert (code, out) == (2, [])


PROGRAM = "import sys; from sumgrad.jobs.cli.app import main; sys.argv[0] = 'sumgrad'; main()"


def started(
    *arguments: str, out: int | None = None, err: int | None = subprocess.PIPE
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=out,
        stderr=err,
        text=True,
    )


#: Sends Ctrl-C at exit, where Ray would shut down; a shell may have started the tests with the
#: signal ignored.
LATE = (
    "import atexit, os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); "
)
#: Sends another Ctrl-C while the command runs.
EARLY = (
    "import sumgrad.jobs.runs.registry as registry; "
    "registry.list_runs = lambda *_: signal.raise_signal(2); "
)


@pytest.mark.parametrize(
    ("before", "code", "text"), [("", 0, ""), (EARLY, 130, "error: interrupted\n")]
)
def test_an_interrupt_at_exit_is_ignored(before: str, code: int, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE + before + PROGRAM, "runs"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (code, text)


def test_a_misspelled_variable_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMGRAD_CLUSTR", "lab")
    monkeypatch.setenv("SUMGRAD_WORKER_CPUS", "2")
    with started("runs", "--json", out=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)) == (0, [])
    assert err == "note: SUMGRAD_CLUSTR is unknown to sumgrad; did you mean SUMGRAD_CLUSTER?\n"


@pytest.mark.parametrize("arguments", [("runs",), ("config", "schema"), ("init", "--list")])
def test_a_closed_pipe_is_exit_code_141(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with started(*arguments, out=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_is_one_line_and_a_hint(as_json: bool) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    arguments = ("runs", "--json") if as_json else ("runs",)
    with started(*arguments, out=full) as process:
        os.close(full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, f"error: No space left on device\nhint: {SPACE}\n")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_missing_streams_are_not_an_error(redirection: str) -> None:
    command = f'"{sys.executable}" -c "{PROGRAM}" wait x-1 --json {redirection}'
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == (0 if ">&- " in f"{redirection} "[:4] else 1)


def test_an_early_interrupt_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for target in ("typer.core.TyperGroup.make_context", "typer.main.get_command"):
        with monkeypatch.context() as patch:
            patch.setattr(target, interrupted)
            code, out, err = call(capsys, "runs", "--json")
        assert (code, err) == (130, ["error: interrupted"])
        assert json.loads(out[-1])["error"] == "interrupted"
    monkeypatch.setattr("sumgrad.jobs.cli.app.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        sumgrad.jobs.cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"
