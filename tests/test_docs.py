"""The documentation is tested: commands, keys, links, modules and tests that it names exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.cli.app import app
from sumgrad.jobs.runs.summary import JSON_KEYS
from sumgrad.jobs.spec.loader import example_names
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.environment import VARIABLES
from sumgrad.jobs.support.validation import all_keys
from sumgrad.jobs.support.yaml import parse_yaml
from sumgrad.model import ACTIVATIONS, DIVERGENCES, INITIALIZERS, OPTIMIZERS

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
}
README, CLI, SPEC = PAGES["README.md"], PAGES["docs/cli.md"], PAGES["docs/spec.md"]


def commands() -> set[str]:
    """Every command, with its group where it has one."""
    names = set()
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", {})
        names |= {f"{name} {each}" for each in inner} or {name}
    return names


def code_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_page_has_one_title_and_says_what_it_is_for() -> None:
    for name, page in PAGES.items():
        title, purpose, *_ = page.split("\n\n")
        assert re.fullmatch(r"# [^\n]+", title), name
        assert not purpose.startswith(("#", "|", "`")), name


def test_every_command_is_documented() -> None:
    for name in commands():
        assert f"| `sumgrad {name}" in CLI, name


def test_every_documented_command_exists() -> None:
    pattern = r"sumgrad ((?:(?:config|cluster) )?[a-z]+)\b"
    for name, page in PAGES.items():
        if name == "CHANGELOG.md":
            continue
        console = "\n".join(code_blocks(page, "console"))
        shown = re.findall(rf"^(?:\$ )?{pattern}", console, re.MULTILINE)
        missing = {*shown, *re.findall(rf"`{pattern}", page)} - commands() - {"config", "cluster"}
        assert not missing, f"{name}: {missing}"


def test_every_environment_variable_is_documented() -> None:
    for name in VARIABLES:
        assert f"| `{name}` |" in CLI


def test_every_key_of_a_spec_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^\| `([\w.\[\]]+)` \|", SPEC, re.MULTILINE))
    assert set(all_keys(JobSpec)) <= documented
    assert documented - set(all_keys(JobSpec)) <= set(example_names())


def test_every_name_in_a_spec_is_documented() -> None:
    for registry in (ACTIVATIONS, DIVERGENCES, INITIALIZERS, OPTIMIZERS):
        for name in registry:
            assert re.search(rf"\b{name}\b", SPEC), name


def test_every_example_is_documented() -> None:
    for name in example_names():
        assert f"| `{name}` |" in SPEC


def test_every_reason_to_stop_is_documented() -> None:
    for reason in StopReason:
        assert f"`{reason}`" in PAGES["docs/architecture.md"], reason


def test_every_key_of_the_summary_is_documented() -> None:
    for key in JSON_KEYS:
        assert f"`{key}`" in CLI, key


@pytest.mark.parametrize("page", ["README.md", "docs/spec.md"])
def test_specs_on_a_page_are_valid(page: str) -> None:
    blocks = code_blocks(PAGES[page], "yaml")
    assert blocks
    for block in blocks:
        JobSpec.model_validate(parse_yaml(block, page).value)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in ("README.md", "CONTRIBUTING.md", "docs/reliability.md"):
        targets = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", PAGES[name], re.MULTILINE))
        for target in targets:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: {target}"


def links(page: str) -> Iterator[tuple[str, str]]:
    """Relative links as file and anchor."""
    for link in re.findall(r"\]\(([^)]+)\)", page):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            yield file, anchor


def test_links_lead_somewhere() -> None:
    for name, page in PAGES.items():
        for file, anchor in links(page):
            target = ((ROOT / name).parent / file).resolve() if file else ROOT / name
            assert target.exists(), f"{name}: {file}"
            if anchor:
                assert anchor in anchors(target.read_text()), f"{name}: {file}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {file for file, _ in links(README)}
    assert set(PAGES) - {"README.md"} <= linked


def test_files_that_a_page_names_exist() -> None:
    pattern = r"`((?:model|cluster|jobs|tests)/[\w/.]*)"
    for name, page in PAGES.items():
        if name != "CHANGELOG.md":
            for path in re.findall(pattern, page):
                assert (ROOT / path).exists(), f"{name}: {path}"


def test_tests_that_a_page_names_exist() -> None:
    for name, page in PAGES.items():
        for file, test in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page):
            assert f"def {test}(" in (ROOT / file).read_text(), f"{name}: {file}::{test}"


def test_every_promise_names_its_test() -> None:
    rows = [line for line in PAGES["docs/reliability.md"].splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| failure |", "| attempt |"))]
    assert len(promises) > 60
    for row in promises:
        assert re.search(r"`tests/|\| the same \|", row), row


def test_no_address_of_an_index_and_no_path_of_a_machine_is_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 50
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line), line
