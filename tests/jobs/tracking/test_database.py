import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.config.tracking_uri import SQLITE
from sumgrad.jobs.tracking import database as database_module
from sumgrad.jobs.tracking.store import open_store


def schema(database: Path) -> set[object]:
    """Return every table with its columns, and every index."""
    with closing(sqlite3.connect(database)) as connection:
        objects = list(connection.execute("select type, name from sqlite_master"))
        tables = [name for kind, name in objects if kind == "table"]
        columns = [
            (table, *column)
            for table in tables
            for column in connection.execute(f"pragma table_info('{table}')")
        ]
    return {*objects, *columns}


def names(folder: Path) -> list[str]:
    """Return the files in a folder except for the lock, which stays."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_the_database_is_the_same_as_mlflows_own(tmp_path: Path) -> None:
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


def test_a_killed_process_leaves_no_incomplete_database(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", OPEN, f"{SQLITE}{database}"]) as process:
        # MLflow itself cannot complete a database with these tables.
        while tables(tmp_path / ".mlflow.db.new") < 25:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not database.exists()
    store = open_store(f"{SQLITE}{database}")
    assert len(store.client.search_experiments()) == 1
    assert names(tmp_path) == ["mlflow.db"]


def tables(database: Path) -> int:
    """Return the number of a database's tables."""
    uri = f"file:{database}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as connection:
        query = "select count(*) from sqlite_master where type = 'table'"
        return int(connection.execute(query).fetchone()[0])
    return 0


def test_a_database_that_another_program_creates_is_kept(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    uri = f"{SQLITE}{database}"

    def create_another(_: Path) -> None:
        if not database.exists():
            database.write_bytes(template.read_bytes())
            MlflowClient(uri, uri).create_experiment("other")

    monkeypatch.setattr(database_module, "sync", create_another)
    found = open_store(uri).client.get_experiment_by_name("other")
    assert found is not None
    assert names(tmp_path) == ["mlflow.db"]


def test_without_links_mlflow_creates_the_tables_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(f"{SQLITE}{tmp_path}/mlflow.db")
    assert len(store.client.search_experiments()) == 1
    assert names(tmp_path) == ["mlflow.db"]


def test_a_link_to_a_missing_database_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "mlflow.db"
    link.symlink_to(tmp_path / "elsewhere" / "real.db")
    open_store(f"{SQLITE}{link}")
    assert link.is_symlink()
    assert schema(tmp_path / "elsewhere" / "real.db")
