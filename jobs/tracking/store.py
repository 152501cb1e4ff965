"""Opening an MLflow store, without telemetry, and classifying its errors."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sumgrad.jobs.config.credentials import (
    Credentials,
    find_credentials,
    login_error,
    with_password,
)
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable, is_server, sqlite_file
from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.text import describe_error, one_line
from sumgrad.jobs.tracking.database import create_database

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

#: Read by MLflow at import. These are defaults that the environment overrides.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A uv.lock in the working directory may belong to an unrelated project.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # The delivery retries in the background. MLflow's own retries would block one request for four
    # minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # MLflow's own git lookup warns where git is not installed.
    "GIT_PYTHON_REFRESH": "quiet",
}
#: Always set: the line that MLflow prints when a run ends contains the password in `Store.address`.
_PRINT_NO_ADDRESS = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"

#: Creating a database's tables takes seconds, on a busy machine some more.
LOCK_TIMEOUT_S = 30.0
_MAX_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Store:
    """An open MLflow store.

    Attributes:
        uri: Resolved; see `sumgrad.jobs.config.tracking_uri.resolve_tracking_uri`.
        client: Bound to that URI. MLflow's global URI is never set.
        address: The URI with user and password, for MLflow only.
    """

    uri: str
    client: "MlflowClient"
    address: str = field(repr=False)


def open_store(uri: str, login: Credentials | None = None) -> Store:
    """Connect to a store, and create the tables of a new SQLite database.

    Args:
        uri: Resolved.
        login: The credentials for a server; by default those that are configured for it.

    Raises:
        TrackingUnreachable: It does not answer now.
        TrackingError: This version of MLflow cannot use it.
    """
    check_tracking_reachable(uri)
    prepare_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    database = sqlite_file(uri)
    login = login or find_credentials(uri)
    address = with_password(uri, login)
    try:
        with _database_lock(database):
            if database is not None:
                create_database(database)
            client = MlflowClient(tracking_uri=address, registry_uri=address)
            # The first request connects, and creates the tables of other databases.
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        problem = f"the MLflow store at {redact(uri)} cannot be used"
        raise tracking_error(problem, error, uri, login) from error
    return Store(uri, client, address)


def tracking_error(
    problem: str, error: Exception, uri: str, login: Credentials | None = None
) -> TrackingError:
    """Return the error that says whether a later attempt may succeed.

    Args:
        problem: What failed.
        error: MLflow's error.
        uri: The store.
        login: The credentials that were sent; by default those that are configured for the store.
    """
    from mlflow.exceptions import MlflowException

    if is_server(uri) and isinstance(error, MlflowException) and not _is_about_host(error):
        code = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        refused = login_error(code, uri, login or find_credentials(uri))
        if refused is not None:
            return refused
    kind = TrackingUnreachable if _may_recover(error, uri) else TrackingError
    return kind(f"{problem}: {one_line(describe_error(error), _MAX_LINE_CHARACTERS)}")


def _may_recover(error: Exception, uri: str) -> bool:
    """Return whether the same request may succeed later."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        code = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        return code in (408, 429) or code >= 500
    # A database that is locked or does not accept connections is an operational error.
    return is_server(uri) or isinstance(error, OperationalError)


def _is_about_host(error: "MlflowException") -> bool:
    """Return whether a server refuses its host name, which looks like a refused login."""
    return "Host header" in str(error)


def prepare_mlflow() -> None:
    """Set up MLflow before its import: no telemetry, and no messages that users cannot act on."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[_PRINT_NO_ADDRESS] = "true"
    # A permanent filter for MLflow's modules: `catch_warnings` would affect all threads.
    warnings.filterwarnings("ignore", module=r"mlflow\b")


def is_invalid_value(error: "MlflowException") -> bool:
    """Return whether MLflow will never accept what it was sent.

    Other refusals may end: a password expires, a proxy limits requests, a run is restored.
    """
    return str(error.error_code) == "INVALID_PARAMETER_VALUE"


@contextlib.contextmanager
def _database_lock(database: Path | None) -> Iterator[None]:
    """Keep processes from creating the tables of one new SQLite database at the same time.

    Raises:
        TrackingUnreachable: Another process has locked the database for too long.
    """
    if database is None:
        yield
        return
    path = database.with_name(f".{database.name}.lock")
    try:
        with FileLock(path, timeout=LOCK_TIMEOUT_S):
            yield
    except Timeout:
        raise TrackingUnreachable(
            f"another process has locked {path} for {LOCK_TIMEOUT_S:g} s",
            hint=f"find it with 'fuser {path}'; it may be frozen",
        ) from None
