"""Opening an MLflow store: quietly, without telemetry, and one at a time."""

import contextlib
import os
import textwrap
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sumgrad.jobs.config.credentials import (
    Credentials,
    find_credentials,
    login_error,
    with_password,
)
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable, is_server, sqlite_file
from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.support.redaction import redact, redact_text
from sumgrad.jobs.tracking.database import create_database

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

#: Read by MLflow at import. They are defaults: whoever sets one of them is obeyed.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Looking for a uv.lock in the current folder would put a stranger's project into the model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # A server that goes away is asked again by us, in the background; MLflow's own retries would
    # hold one request for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Its git lookup prints a warning where there is no git; see sumgrad.jobs.tracking.metadata.
    "GIT_PYTHON_REFRESH": "quiet",
}
#: Nobody is obeyed in this: the line that MLflow would print when a run ends holds the login of
#: `Store.address`.
_PRINT_NO_ADDRESS = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"

#: Creating a database's tables takes seconds; whoever holds its lock for longer has been stopped.
LOCK_SECONDS = 30.0
_LOCK_PAUSE_S = 0.05
_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Store:
    """An MLflow store that is ready for use.

    Args:
        uri: Resolved; see `sumgrad.jobs.config.tracking_uri.resolve_tracking_uri`.
        client: Bound to that URI. MLflow's global URI is never set.
        address: The URI with the login that the store asks for; for MLflow, and for nobody's eyes.
    """

    uri: str
    client: "MlflowClient"
    address: str = field(repr=False)


def open_store(uri: str, login: Credentials | None = None) -> Store:
    """Connect, and where a SQLite database is new, create its tables.

    Args:
        uri: Resolved.
        login: For that server; by default the one that is known to be for it.

    Raises:
        TrackingError: It cannot be reached, or is no store of this MLflow.
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
        with _one_at_a_time(uri):
            if database is not None:
                create_database(database)
            client = MlflowClient(tracking_uri=address, registry_uri=address)
            # The first question is what connects, and what creates the tables of other databases.
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        what = f"the MLflow store at {redact(uri)} cannot be used"
        raise tracking_error(what, error, uri, login) from error
    return Store(uri, client, address)


def tracking_error(
    what: str, error: Exception, uri: str, login: Credentials | None = None
) -> TrackingError:
    """The error that says whether asking again later makes sense.

    Args:
        what: What failed.
        error: What MLflow raised.
        uri: Of the store.
        login: What was shown to it; by default what is known to be for it.
    """
    from mlflow.exceptions import MlflowException

    if is_server(uri) and isinstance(error, MlflowException) and not _is_about_the_name(error):
        code = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        refused = login_error(code, uri, login or find_credentials(uri))
        if refused is not None:
            return refused
    kind = TrackingError
    if is_server(uri) and not (isinstance(error, MlflowException) and is_about_us(error)):
        kind = TrackingUnreachable
    return kind(f"{what}: {first_line(error)}")


def is_about_us(error: "MlflowException") -> bool:
    """Whether a store refuses what it was sent: 4xx, but for a timeout and 'too many'."""
    code = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 400 <= code < 500 and code not in (408, 429)


def _is_about_the_name(error: "MlflowException") -> bool:
    """Whether a server refuses to be called by this name, which is no matter of logins."""
    return "Host header" in str(error)


def prepare_mlflow() -> None:
    """Before MLflow is imported: no telemetry, and no notes that no user can act on."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ[_PRINT_NO_ADDRESS] = "true"
    # A lasting filter for MLflow's own modules: catch_warnings would swap the filters of every
    # thread, and MLflow starts while other things do.
    warnings.filterwarnings("ignore", module=r"mlflow\b")


def is_refusal(error: "MlflowException") -> bool:
    """Whether a store will never take what it was sent, however often it is asked.

    It says so of a value that is none. Whatever else it answers may be otherwise tomorrow: a
    password that has expired, a proxy that takes no large requests, a run that is restored.
    """
    return str(error.error_code) == "INVALID_PARAMETER_VALUE"


def first_line(error: BaseException) -> str:
    """What an error says, in one short line and without secrets."""
    line = redact_text(str(error).strip()).partition("\n")[0] or type(error).__name__
    return textwrap.shorten(line, _LINE_CHARACTERS, placeholder=" …")


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that create the tables of one new database at once would break each other."""
    database = sqlite_file(uri)
    if database is None or os.name == "nt":
        yield
        return
    import fcntl

    path = database.with_name(f".{database.name}.lock")
    with path.open("w") as lock:
        give_up = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise _never_let_go(path) from None
                time.sleep(_LOCK_PAUSE_S)
        yield


def _never_let_go(lock: Path) -> TrackingError:
    return TrackingError(
        f"another process has held {lock} for {LOCK_SECONDS:g} s",
        hint=f"it may have been stopped: 'fuser {lock}' names it; let it go on, or end it",
    )
