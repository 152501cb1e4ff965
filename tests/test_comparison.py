"""docs/comparison.md: the commands and options that it names exist, ours and Ray's."""

import re
from pathlib import Path
from typing import Any

import typer.main

from sumgrad.jobs.cli.app import app

PAGE = (Path(__file__).parents[1] / "docs" / "comparison.md").read_text()


def named(program: str) -> list[str]:
    """What follows a program's name, wherever the page has it."""
    return re.findall(rf"`{program} ([^`]+)`", PAGE)


def expect(group: Any, line: str) -> None:
    """Every word that is no placeholder is a command, every option one of that command.

    Args:
        group: Of click, or of typer, which has its own copy of it.
        line: What follows the program's name.
    """
    words, options = [], []
    for word in line.partition(" -- ")[0].split():
        if word.startswith("-"):
            options.append(word)
        elif word.islower():
            words.append(word)
    command = group
    for word in words:
        assert word in command.commands, line
        command = command.commands[word]
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(options) <= known, line


def test_the_commands_of_sumgrad_exist() -> None:
    lines = named("sumgrad")
    assert len(lines) > 10
    for line in lines:
        expect(typer.main.get_command(app), line)


def test_the_commands_of_ray_exist() -> None:
    from ray.dashboard.modules.job.cli import job_cli_group

    lines = named("ray job")
    assert len(lines) > 5
    for line in lines:
        expect(job_cli_group, line)
