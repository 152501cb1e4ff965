"""What the command line shows of addresses: never their secrets."""

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


class Said:
    """What was said, and that the secret was not."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = capsys.readouterr()
        self.out, self.err = said.out, said.err
        assert "s3cr3t" not in self.out + self.err


def test_a_shown_spec_has_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "digits", "--set", f"tracking.uri='{URI}'"]) == 0
    spec = yaml.safe_load(Said(capsys).out)
    assert spec["tracking"]["uri"] == "postgresql://***@db.example/x"


def test_a_shown_spec_has_no_secrets_in_its_data_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["config", "show", "digits", "--set", f"data.train=s3://key:{SECRET}@b/x.csv"]) == 0
    assert yaml.safe_load(Said(capsys).out)["data"]["train"] == "s3://***@b/x.csv"


def test_a_shown_file_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "sqlite:////home/me@corp/a:b@c.db"
    assert run(["config", "show", "digits", "--set", f"tracking.uri={uri}"]) == 0
    assert yaml.safe_load(Said(capsys).out)["tracking"]["uri"] == uri


def test_data_elsewhere_is_refused_without_its_secrets() -> None:
    with pytest.raises(DataNotFound, match="only") as caught:
        read_dataset(f"s3://key:{SECRET}@bucket/x.csv", "train", ("label",))
    assert caught.value.message.startswith("s3://***@bucket/x.csv: ")


@pytest.mark.parametrize(
    "error",
    [
        TrackingError(f"{URI} is away", hint=f"ask {URI} later"),
        SumgradError(f"'{URI}'\nis away"),
        RuntimeError(f"{URI} is away"),
        OSError(2, "nothing there", URI),
        MemoryError(URI),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_no_error_shows_secrets_whoever_wrote_it(
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
    said = Said(capsys)
    assert "postgresql://***@db.example/x" in said.err
    assert ("Traceback" in said.err) is debug


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
def test_no_wrong_command_line_is_answered_with_its_secrets(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) in (2, 3)
    assert Said(capsys).err.startswith("error: ")
