"""A new SQLite database of MLflow's, made whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sumgrad.jobs.support.files import sync

if TYPE_CHECKING:
    from sqlite3 import Connection


def create_database(database: Path) -> None:
    """Make a database with MLflow's tables; does nothing if there is one.

    MLflow makes it in a hundred transactions, and a process that is killed between two of them
    leaves a database that no MLflow can use. So it is made beside its place, and gets its name when
    it is complete. Until then none of the transactions has to wait for the disk, which would take
    as long as all the rest.

    Args:
        database: The file; one process at a time.

    Raises:
        OSError: It cannot be written.
        SQLAlchemyError: The same, or MLflow's tables cannot be made.
    """
    if os.path.lexists(database):
        return
    from mlflow import MlflowClient

    made = database.with_name(f".{database.name}.new")
    for left in (made, made.with_name(f"{made.name}-journal")):
        left.unlink(missing_ok=True)
    uri = f"sqlite:///{made}"
    try:
        with _unhurried_disk():
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
        sync(made)
        # Not renamed: another program's database, made meanwhile, would be replaced. Where there
        # are no links MLflow makes it in its place, as it would have done.
        with suppress(OSError):
            os.link(made, database)
            sync(database.parent)
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def _unhurried_disk() -> Iterator[None]:
    """Connections that are opened meanwhile do not wait for the disk, and are closed in the end."""
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
