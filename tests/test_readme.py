"""The README is tested: its commands exist, every command is in it, its spec is valid."""

import re
from pathlib import Path

import typer.main

from sumgrad.jobs.cli.app import app
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.loader import example_names
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.yaml import parse_yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> set[str]:
    """Every command, with its group where it has one."""
    names = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        names |= {f"{name} {inner}" for inner in below} if below else {name}
    return names


def test_every_command_has_help_and_a_place_in_the_readme() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.help, name
    for name in commands():
        assert f"`sumgrad {name}" in README, name


def test_every_command_in_the_readme_exists() -> None:
    command = r"sumgrad ((?:(?:config|cluster) )?[a-z]+)"
    named = set(re.findall(rf"^(?:\$ )?{command}", README, re.MULTILINE))
    named |= set(re.findall(rf"`{command}", README))
    assert named
    assert named <= commands()


def test_every_example_is_in_the_readme() -> None:
    for name in example_names():
        assert f"| `{name}` |" in README


def test_the_readmes_spec_is_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        try:
            JobSpec.model_validate(parse_yaml(block, "README.md").value)
        except SpecError as error:
            raise AssertionError(block) from error


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)) - {"and"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_of_the_documentation_lead_somewhere() -> None:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_modules_that_the_documentation_names_exist() -> None:
    for path in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"(?<![\w/])(?:model|cluster|jobs)/[\w/]+\.py", path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name}: {name}"


def test_every_test_that_the_documentation_names_exists() -> None:
    named = [
        (path.name, *match)
        for path in (ROOT / "docs").glob("*.md")
        for match in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", path.read_text())
    ]
    assert len(named) > 40
    for page, file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{page}: {file}::{test}"


def test_no_address_of_an_index_and_no_path_of_a_machine_is_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 50
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line), line
