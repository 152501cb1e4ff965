import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.config.tracking_uri import SQLITE
from sumgrad.jobs.tracking import database as database_module
from sumgrad.jobs.tracking.store import open_store


def schema(database: Path) -> set[object]:
    """Every table with its columns, and every index."""
    with closing(sqlite3.connect(database)) as connection:
        there = list(connection.execute("select type, name from sqlite_master"))
        tables = [name for kind, name in there if kind == "table"]
        columns = [
            (table, *column)
            for table in tables
            for column in connection.execute(f"pragma table_info('{table}')")
        ]
    return {*there, *columns}


def names(folder: Path) -> list[str]:
    """The files in a folder, without the lock, which stays."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_is_the_one_that_mlflow_would_have_made(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    open_store(f"{SQLITE}{ours}")
    MlflowClient(f"{SQLITE}{theirs}", f"{SQLITE}{theirs}").search_experiments()
    assert schema(ours) == schema(theirs)
    assert names(tmp_path) == ["ours.db", "theirs.db"]
    (default,) = open_store(f"{SQLITE}{ours}").client.search_experiments()
    (expected,) = open_store(f"{SQLITE}{theirs}").client.search_experiments()
    assert (default.name, default.experiment_id, default.artifact_location) == (
        expected.name,
        expected.experiment_id,
        expected.artifact_location,
    )


OPEN = "import sys; from sumgrad.jobs.tracking.store import open_store; open_store(sys.argv[1])"


def test_who_is_killed_meanwhile_leaves_none_that_is_half_made(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", OPEN, f"{SQLITE}{database}"]) as process:
        # After so many of its tables MLflow itself could not go on.
        while tables(tmp_path / ".mlflow.db.new") < 25:
            assert process.poll() is None
        process.kill()
    assert not database.exists()
    store = open_store(f"{SQLITE}{database}")
    assert len(store.client.search_experiments()) == 1
    assert names(tmp_path) == ["mlflow.db"]


def tables(database: Path) -> int:
    """How many a database has."""
    with suppress(sqlite3.Error):
        place = f"file:{database}?mode=ro"
        with closing(sqlite3.connect(place, uri=True)) as connection:
            query = "select count(*) from sqlite_master where type = 'table'"
            return int(connection.execute(query).fetchone()[0])
    return 0


def test_one_that_another_program_made_meanwhile_is_kept(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    uri = f"{SQLITE}{database}"

    def another_makes_it(_: Path) -> None:
        if not database.exists():
            database.write_bytes(template.read_bytes())
            MlflowClient(uri, uri).create_experiment("another's")

    monkeypatch.setattr(database_module, "sync", another_makes_it)
    found = open_store(uri).client.get_experiment_by_name("another's")
    assert found is not None
    assert names(tmp_path) == ["mlflow.db"]


def test_where_there_are_no_links_mlflow_makes_it_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(f"{SQLITE}{tmp_path}/mlflow.db")
    assert len(store.client.search_experiments()) == 1
    assert names(tmp_path) == ["mlflow.db"]


def test_a_link_to_a_database_that_is_to_be_made_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "mlflow.db"
    link.symlink_to(tmp_path / "elsewhere" / "real.db")
    open_store(f"{SQLITE}{link}")
    assert link.is_symlink()
    assert schema(tmp_path / "elsewhere" / "real.db")
