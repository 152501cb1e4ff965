"""What a command ends with, whatever becomes of it: a line, a hint, a code, JSON for scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sumgrad.jobs.cli
from sumgrad.jobs.cli.app import run
from sumgrad.jobs.cli.environment import VARIABLES, misspelled_variables
from sumgrad.jobs.cli.errors import ResultPrinted, run_guarded
from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.runs.summary import JSON_KEYS

SPACE = "free some space on that disk and try again"
DIVERGES = ("--set", "optimizer.eta=1e30", "--set", "cluster.address=inline")


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    capsys.readouterr()
    code = run(list(arguments))
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err.splitlines()


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


@pytest.mark.parametrize(("arguments", "code", "told"), REFUSED)
def test_what_is_refused_is_told_to_a_script_too(
    arguments: tuple[str, ...], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, err = say(capsys, *arguments, "--json")
    assert (ended, told in err[0]) == (code, True)
    hint = err[1].removeprefix("hint: ") if len(err) > 1 else None
    expected = {"error": err[0].removeprefix("error: "), "hint": hint, "exit_code": code}
    assert json.loads(out[-1]) == expected
    assert len(out) == 1
    assert say(capsys, *arguments) == (code, [], err), "and to nobody else"


def test_who_asks_for_json_behind_two_dashes_has_not_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = say(capsys, "train", "--", "--json")
    assert (code, out) == (2, [])


def test_a_run_that_failed_has_the_promised_object_and_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = say(capsys, "train", "digits", *DIVERGES, "--json")
    assert code == 1
    assert tuple(json.loads(out[-1])) == JSON_KEYS
    assert len(out) == 1
    assert any(line.startswith("error: the loss is not finite") for line in err)


def told(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    def fail() -> int:
        raise error

    code = run_guarded(fail, debug=False, as_json=True)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert "Traceback" not in said.err
    value: dict[str, object] = json.loads(said.out)
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
    ended, value = told(error, capsys)
    message, hint = expected
    assert (ended, value) == (code, {"error": message, "hint": hint, "exit_code": code})


def test_a_defect_is_one_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, value = told(ZeroDivisionError("division by zero"), capsys)
    assert code == 1
    assert value["error"] == "internal error: ZeroDivisionError: division by zero"


def test_what_has_been_told_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        sys.stdout.write('{"run_id": null}\n')
        raise ResultPrinted from ServiceUnreachable("it is away")

    assert run_guarded(fail, debug=False, as_json=True) == 3
    said = capsys.readouterr()
    assert (said.out, said.err) == ('{"run_id": null}\n', "error: it is away\n")


def test_a_variable_that_is_misspelt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMGRAD_CLUSTR", "lab")
    monkeypatch.setenv("SUMGRAD_WORKER_CPUS", "2")
    with started("runs", "--json", out=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)) == (0, [])
    assert err == "note: SUMGRAD_CLUSTR is unknown to sumgrad; did you mean SUMGRAD_CLUSTER?\n"


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_that_is_read_is_in_the_manual(name: str) -> None:
    root = Path(__file__).parents[3]
    assert f"| `{name}` |" in (root / "docs" / "service.md").read_text()
    assert misspelled_variables([name, f"OTHER_{name}"]) == []
    assert len(misspelled_variables([f"{name}S", name.lower()])) == 2
    files = [file for file in (root / "jobs").rglob("*.py") if file.parent.name != "cli"]
    sources = [file.read_text() for file in files]
    assert name == "SUMGRAD_DEBUG" or any(name in text for text in sources)


@pytest.mark.parametrize(
    "name", ["IMAGE", "DATA", "TOKEN_FILE", "COMPOSE", "END_TO_END", "FUZZ", "MNIST", "CLI_CPUS"]
)
def test_variables_of_compose_and_of_the_tests_are_not_misspelt(name: str) -> None:
    assert misspelled_variables([f"SUMGRAD_{name}"]) == []


# Whoever was to read it has gone

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


#: A Ctrl-C where Ray's own end would be. Who runs the tests may have it ignored, as a shell does in
#: the background.
LATE = (
    "import atexit, os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); "
)
#: And one before it.
EARLY = (
    "import sumgrad.jobs.runs.registry as registry; "
    "registry.list_runs = lambda *_: signal.raise_signal(2); "
)


@pytest.mark.parametrize(
    ("before", "code", "told"), [("", 0, ""), (EARLY, 130, "error: interrupted\n")]
)
def test_an_interrupt_at_the_very_end_is_quiet(before: str, code: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE + before + PROGRAM, "runs"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (code, told)


@pytest.mark.parametrize("arguments", [("runs",), ("config", "schema"), ("init", "--list")])
def test_a_pipe_that_was_closed_is_nobodys_error(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with started(*arguments, out=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_is_one_line(as_json: bool) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    arguments = ("runs", "--json") if as_json else ("runs",)
    with started(*arguments, out=full) as process:
        os.close(full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, f"error: No space left on device\nhint: {SPACE}\n")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_a_stream_that_is_not_there_is_no_trouble(redirection: str) -> None:
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


def test_an_interrupt_is_told_however_early_it_comes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("typer.core.TyperGroup.make_context", "typer.main.get_command"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            code, out, err = say(capsys, "runs", "--json")
        assert (code, err) == (130, ["error: interrupted"])
        assert json.loads(out[-1])["error"] == "interrupted"
    monkeypatch.setattr("sumgrad.jobs.cli.app.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        sumgrad.jobs.cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted\n"
