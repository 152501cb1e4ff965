import subprocess
from pathlib import Path
from typing import Any

from sumgrad.jobs.tracking.metadata import flatten, git_tags, source_tags


def test_git_tags_are_of_the_folder(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert git_tags(tmp_path) == {}
    git("init")
    assert git_tags(tmp_path) == {}
    (tmp_path / "job.yaml").write_text("seed: 1\n")
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_tags(tmp_path) == {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": "false",
    }
    (tmp_path / "job.yaml").write_text("seed: 2\n")
    assert source_tags(tmp_path)["mlflow.source.git.dirty"] == "true"


def test_source_tags_name_user_and_program(tmp_path: Path) -> None:
    tags = source_tags(tmp_path)
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.user"]


def test_parameters_are_json_except_for_text_and_numbers() -> None:
    spec: dict[str, Any] = {"a": None, "b": True, "c": [1, 2], "d": {}, "e": "word", "f": 1e-4}
    assert dict(flatten(spec)) == {
        "a": "null",
        "b": "true",
        "c": "[1, 2]",
        "d": "{}",
        "e": "word",
        "f": "0.0001",
    }
