"""Opening an MLflow store, without telemetry, and classifying its errors."""

import os
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from sumgrad.jobs.config.clusters import find_credentials
from sumgrad.jobs.config.credentials import Credentials, login_error, with_password
from sumgrad.jobs.config.tracking_uri import (
    PROBE_SECONDS,
    check_tracking_reachable,
    is_server,
    sqlite_file,
)
from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.support.http import RequestFailed, send_request
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.text import describe_error, one_line
from sumgrad.jobs.tracking.database import create_database

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Read by MLflow at import. These are defaults that the environment overrides.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A uv.lock in the working directory may belong to an unrelated project.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # The delivery retries in the background; MLflow's retries would block a request for 4 minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # MLflow's own git lookup warns where git is not installed.
    "GIT_PYTHON_REFRESH": "quiet",
}
LOGIN_PROBE_PATH = "/api/2.0/mlflow/experiments/get?experiment_id=0"  #: Requires a login.
LOCK_TIMEOUT_S = 30.0  #: Creating a database's tables takes seconds, on a busy machine some more.
_MAX_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Store:
    """An open MLflow store at a resolved URI. MLflow's global URI is never set."""

    uri: str
    client: "MlflowClient"
    address: str = field(repr=False)  #: The URI with user and password, for MLflow only.


def open_store(uri: str, login: Credentials | None = None) -> Store:
    """Connect to a store at a resolved URI, and create the tables of a new SQLite database.

    The login for a server is by default the one that is configured for it.

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
        with ExitStack() as locks:
            if database is not None:
                # Only one process creates the tables of a new database.
                file = database.with_name(f".{database.name}.lock")
                locks.enter_context(FileLock(file, timeout=LOCK_TIMEOUT_S))
                create_database(database)
            client = MlflowClient(tracking_uri=address, registry_uri=address)
            # The first request connects, and creates the tables of other databases.
            client.search_experiments(max_results=1)
    except Timeout as error:
        raise TrackingUnreachable(
            f"another process has locked {error.lock_file} for {LOCK_TIMEOUT_S:g} s",
            hint=f"find it with 'fuser {error.lock_file}'; it may be frozen",
        ) from None
    except (MlflowException, SQLAlchemyError, OSError) as error:
        problem = f"the MLflow store at {redact(uri)} cannot be used"
        raise tracking_error(problem, error, uri, login) from error
    return Store(uri, client, address)


def is_login_refused(uri: str) -> bool:
    """Return whether a server answers 401 or 403 to one quick request with the configured login.

    MLflow's client finds more logins than this request sends, such as that of ``~/.netrc``, so the
    client has to decide whether the server really refuses.
    """
    if not is_server(uri):
        return False
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    try:
        address = urlsplit(with_password(uri, find_credentials(uri)))
        if address.username:
            user, password = unquote(address.username), unquote(address.password or "")
        answer = send_request(
            "GET",
            f"{uri}{LOGIN_PROBE_PATH}",
            timeout=PROBE_SECONDS,
            token=None if user else os.environ.get("MLFLOW_TRACKING_TOKEN"),
            login=(user, password or "") if user else None,
        )
    except RequestFailed:
        return False
    except TrackingError:
        # The file with the token cannot be read.
        return True
    return answer.status in (401, 403)


def tracking_error(
    problem: str, error: Exception, uri: str, login: Credentials | None = None
) -> TrackingError:
    """Return an error of MLflow's as one that shows whether a retry may succeed.

    The login is the one that was sent, by default the one that is configured for the store.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        code = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        may_recover = code in (408, 429) or code >= 500
        # A server that refuses its host name answers 403, too.
        if is_server(uri) and "Host header" not in str(error):
            refused = login_error(code, uri, login or find_credentials(uri))
            if refused is not None:
                return refused
    else:
        # A database that is locked or does not accept connections is an operational error.
        may_recover = is_server(uri) or isinstance(error, OperationalError)
    kind = TrackingUnreachable if may_recover else TrackingError
    return kind(f"{problem}: {one_line(describe_error(error), _MAX_LINE_CHARACTERS)}")


def prepare_mlflow() -> None:
    """Set up MLflow before its import: no telemetry, and no messages that users cannot act on."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # The line that MLflow prints when a run ends contains the password in `Store.address`.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # A permanent filter for MLflow's modules: `catch_warnings` would affect all threads.
    warnings.filterwarnings("ignore", module=r"mlflow\b")
