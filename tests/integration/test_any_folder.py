"""Commands work in a folder whose modules have the names of sumgrad's or of its libraries."""

from pathlib import Path

import pytest

from tests.integration.command_line import Folder

pytestmark = pytest.mark.ray

TRAP = "raise ImportError('the user\\'s own module was imported instead of sumgrad\\'s')\n"


def write_traps(path: Path) -> None:
    """Write modules that must not be imported."""
    for name in ("model.py", "sumgrad.py", "yaml.py", "numpy.py"):
        (path / name).write_text(TRAP)
    for name in ("jobs", "cluster"):
        (path / name).mkdir()
        (path / name / "__init__.py").write_text(TRAP)


def test_the_users_modules_are_not_imported_by_driver_or_workers(folder: Folder) -> None:
    inline = folder.sumgrad("train", "flowers.yaml", "--json")
    assert inline.code == 0, inline.err
    write_traps(folder.path)
    workers = folder.run_installed(
        "train", "flowers.yaml", "--json", "--set", "cluster.address=local"
    )
    assert workers.code == 0, workers.err
    assert workers.result["weights_sha256"] == inline.result["weights_sha256"]
    assert workers.result["train_loss"] == inline.result["train_loss"]
    evaluated = folder.run_installed("evaluate", workers.result["run_id"], "flowers.csv")
    assert evaluated.code == 0, evaluated.err
