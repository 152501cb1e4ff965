"""The command line never shows the secrets of addresses."""

from pathlib import Path

import pytest
import typer
import yaml

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.errors import DataNotFound, TrackingError
from sumgrad.model.errors import SumgradError

SECRET = "s3cr3t/pass"
URI = f"postgresql://me:{SECRET}@db.example/x"


class Output:
    """The output of a command, without the secret."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.out, self.err = capsys.readouterr()
        assert "s3cr3t" not in self.out + self.err


def test_a_shown_spec_has_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "digits", "--set", f"tracking.uri='{URI}'"]) == 0
    spec = yaml.safe_load(Output(capsys).out)
    assert spec["tracking"]["uri"] == "postgresql://***@db.example/x"


def test_a_shown_spec_has_no_secrets_in_its_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["config", "show", "digits", "--set", f"data.train=s3://key:{SECRET}@b/x.csv"]) == 0
    assert yaml.safe_load(Output(capsys).out)["data"]["train"] == "s3://***@b/x.csv"


def test_a_path_with_an_at_sign_is_shown_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "sqlite:////home/me@corp/a:b@c.db"
    assert run(["config", "show", "digits", "--set", f"tracking.uri={uri}"]) == 0
    assert yaml.safe_load(Output(capsys).out)["tracking"]["uri"] == uri


def test_remote_data_are_refused_without_their_secrets() -> None:
    with pytest.raises(DataNotFound, match="only") as caught:
        read_dataset(f"s3://key:{SECRET}@bucket/x.csv", "train", ("label",))
    assert caught.value.message.startswith("s3://***@bucket/x.csv: ")


@pytest.mark.parametrize(
    "error",
    [
        TrackingError(f"{URI} is away", hint=f"ask {URI} later"),
        SumgradError(f"'{URI}'\nis away"),
        RuntimeError(f"{URI} is away"),
        OSError(2, "no such file", URI),
        MemoryError(URI),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_no_error_shows_secrets(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    debug: bool,
) -> None:
    class Failing:
        def main(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(typer.main, "get_command", lambda app: Failing())
    assert run([], debug=debug)
    output = Output(capsys)
    assert "postgresql://***@db.example/x" in output.err
    assert ("Traceback" in output.err) is debug


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits", URI],
        ["train", URI],
        ["config", "validate", "digits", "--set", URI],
        ["config", "validate", "digits", "--set", f"tracking.on_unavailable={URI}"],
        ["config", "validate", "digits", "--set", f"seed={URI}"],
        ["runs", "--tracking-uri", URI],
        ["resume", URI],
        ["evaluate", "0123456789", "x.csv", "--tracking-uri", f"http://me:{SECRET}@h"],
        ["evaluate", "0123456789", "x.csv", "--tracking-uri", f"file://me:{SECRET}@h"],
        ["evaluate", "0123456789", "x.csv", "--tracking-uri", f"sqlite://me:{SECRET}@h"],
    ],
)
def test_errors_about_the_command_line_show_no_secrets(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) in (2, 3)
    assert Output(capsys).err.startswith("error: ")
