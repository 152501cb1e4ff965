"""Environment variables: documented, and checked for typing errors."""

from pathlib import Path

import pytest

from sumgrad.jobs.support.environment import VARIABLES, misspelled_variables


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_is_read_and_documented(name: str) -> None:
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
def test_other_variables_of_the_project_are_not_misspellings(name: str) -> None:
    assert misspelled_variables([f"SUMGRAD_{name}"]) == []
