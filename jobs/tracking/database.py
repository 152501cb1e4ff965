"""Creating a SQLite database with MLflow's tables, completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sumgrad.jobs.support.files import sync

if TYPE_CHECKING:
    from sqlite3 import Connection


def create_database(database: Path) -> None:
    """Create a database with MLflow's tables, unless the file exists; callers hold a lock on it.

    MLflow creates them in a hundred transactions. A process that is killed between two of these
    leaves a database that MLflow cannot open. So the database is created under another name, and
    linked when it is complete. Until then no transaction waits for the disk, which takes as long as
    everything else. Raise OSError or SQLAlchemyError if that fails.
    """
    if os.path.lexists(database):
        return
    from mlflow import MlflowClient

    new = database.with_name(f".{database.name}.new")
    for leftover in (new, new.with_name(f"{new.name}-journal")):
        leftover.unlink(missing_ok=True)
    uri = f"sqlite:///{new}"
    try:
        with _synchronous_off():
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        sync(new)
        # Renaming would replace a database that another program has created in the meantime. On
        # file systems without links MLflow creates the tables in place later.
        with suppress(OSError):
            os.link(new, database)
            sync(database.parent)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _synchronous_off() -> Iterator[None]:
    """Let new connections skip waiting for the disk, and close them at the end."""
    from sqlalchemy import Engine, event

    opened: list[Connection] = []

    def connected(connection: "Connection", _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")
        opened.append(connection)

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)
        for connection in opened:
            connection.close()
