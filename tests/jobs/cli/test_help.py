"""``--help`` on 80 columns: groups, whole lines, and plain text unless it goes to a terminal."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from sumgrad.jobs.cli.app import GROUPS, app, run


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name, groups included."""
    yield name, command
    for child, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {child}".strip())


ALL = dict(commands(typer.main.get_command(app)))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def help_of(capsys: pytest.CaptureFixture[str], name: str = "") -> str:
    assert run([*name.split(), "--help"]) == 0
    return capsys.readouterr().out


def test_commands_are_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys).splitlines()
    headings = [line.removesuffix(":") for line in lines if re.fullmatch(r"\w+:", line)]
    assert headings == ["Options", *GROUPS]
    listed = [line.split()[0] for line in lines[lines.index("Train:") :] if line.startswith("  ")]
    assert sorted(listed) == sorted(name for name in ALL if name and " " not in name)


@pytest.mark.parametrize("name", ["", "cluster", "config"])
def test_every_summary_is_whole_on_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, name)
    assert "..." not in text.partition("Usage")[2].partition("\n")[2]
    for child, command in ALL[name].commands.items():
        summary = command.help.partition("\n")[0]
        assert re.search(rf"^  {child} +{re.escape(summary)}$", text, re.MULTILINE), summary


@pytest.mark.parametrize("name", ALL)
def test_help_is_plain_text_of_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, name)
    assert max(map(len, text.splitlines())) <= 80
    assert not set("╭│╰\x1b") & set(text)


def test_help_on_a_terminal_has_panels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = re.sub(r"\x1b\[[\d;]*m", "", help_of(capsys) + help_of(capsys, "resume"))
    assert all(f"─ {group} ─" in text for group in GROUPS)
    # Paragraphs are wrapped anew: Rich would keep the line breaks of the docstring.
    assert "in MLflow. It " in text


@pytest.mark.parametrize(
    "name", [name for name, each in ALL.items() if not hasattr(each, "commands")]
)
def test_json_is_the_last_option(name: str) -> None:
    options = [parameter.opts[0] for parameter in ALL[name].params if parameter.opts[0][0] == "-"]
    assert "--json" not in options[:-1]
    assert ALL[name].help.partition("\n")[0].endswith(".")


LARGE = ("ray", "mlflow", "numpy", "pyarrow", "pandas", "yaml", "sklearn")


@pytest.mark.parametrize("name", ["", "submit", "cluster up"])
def test_help_imports_no_large_library(name: str) -> None:
    program = (
        "import sys; from sumgrad.jobs.cli.app import run; "
        f"run([*{name.split()}, '--help']); "
        f"print('loaded:', *(m for m in {LARGE} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip().splitlines()[-1] == "loaded:"
