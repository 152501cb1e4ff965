"""Tracking URIs: which ones a spec can have, and whether their stores can be used."""

import os
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sumgrad.jobs.errors import SpecError, TrackingError, TrackingUnreachable
from sumgrad.jobs.support.files import expand_user
from sumgrad.jobs.support.http import RequestFailed, send_request
from sumgrad.jobs.support.redaction import is_redacted, redact, without_user
from sumgrad.model.validation import did_you_mean

SQLITE = "sqlite:///"
#: The timeout of the request to /health, which comes before MLflow's own retries of minutes.
PROBE_SECONDS = 2.0
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
#: The schemes of MLflow's stores, besides databases and plugins.
_SERVICES = ("http", "https", "databricks", "databricks-uc", "uc")
_SQLITE_HINT = "use a database file, such as sqlite:///mlflow.db, or a server's http address"
#: MLflow's variables: the address, and what replaces a user and a password in it.
URI = "MLFLOW_TRACKING_URI"
USER_AND_PASSWORD = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_LOGIN_VARIABLES = (USER_AND_PASSWORD, ("MLFLOW_TRACKING_TOKEN",))


def resolve_tracking_uri(uri: str, base: Path) -> str:
    """Return a tracking URI that does not depend on the current folder.

    A relative database file belongs to the folder ``base``. A URI that a run recorded without its
    secrets gets them back; see `with_credentials`.

    >>> resolve_tracking_uri("sqlite:///mlflow.db", Path("/jobs"))
    'sqlite:////jobs/mlflow.db'
    >>> resolve_tracking_uri("http://tracking:5000/", Path("/jobs"))
    'http://tracking:5000'

    Raises:
        SpecError: A folder, which MLflow no longer supports, a database without a file, an unknown
            scheme, or an invalid server address.
    """
    uri = with_credentials(_absolute(uri, base))
    if is_server(uri):
        _check_host(uri)
    return uri


def _absolute(uri: str, base: Path) -> str:
    if is_server(uri):
        return uri.rstrip("/")
    if uri.startswith("sqlite:"):
        path, _, query = uri.removeprefix(SQLITE).partition("?")
        if not uri.startswith(SQLITE) or not path or ":memory:" in path:
            raise _invalid(uri, "names no database file", _SQLITE_HINT)
        # normpath keeps a link to a database, which resolve would replace by its target.
        absolute = os.path.normpath(base.absolute() / expand_user(path))
        return f"{SQLITE}{absolute}" + (f"?{query}" if query else "")
    if "://" not in uri or uri.startswith("file:"):
        raise _invalid(uri, "is a folder, and MLflow no longer keeps runs in folders", _SQLITE_HINT)
    scheme = uri.partition(":")[0].partition("+")[0]
    plugins = {entry.name for entry in entry_points(group="mlflow.tracking_store")}
    known = (*_SERVICES, *_DATABASES, *sorted(plugins))
    if scheme not in known:
        raise _invalid(uri, f"has the unknown scheme '{scheme}'", did_you_mean(scheme, known))
    return uri


def _check_host(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        is_valid = bool(parts.hostname) and parts.port != 0 and not parts.netloc.endswith(":")
    except ValueError:
        is_valid = False
    if not is_valid:
        # The cause is not repeated, because it can quote a part of the password.
        hint = (
            "in a user or a password write / as %2F, ? as %3F, # as %23 and @ as %40; "
            f"or set {' and '.join(USER_AND_PASSWORD)}"
        )
        raise _invalid(uri, "is not the address of a server", hint)


def _invalid(uri: str, problem: str, hint: str) -> SpecError:
    return SpecError(f"'{redact(uri)}' {problem}", key="tracking.uri", hint=hint)


def with_credentials(uri: str) -> str:
    """Return a resolved tracking URI with the secrets that were not recorded.

    They come from ``MLFLOW_TRACKING_URI``, if it is the same URI. A server's address needs none
    where MLflow's variables hold user and password or a token. The URI is returned unchanged if it
    lacks nothing, or if the environment does not have its secrets.
    """
    if not is_redacted(uri):
        return uri
    given = os.environ.get(URI, "")
    given = given.rstrip("/") if is_server(given) else given
    if redact(given) == uri:
        return given
    if is_server(uri) and has_login_variables():
        return without_user(uri)
    return uri


def has_login_variables() -> bool:
    """Return whether MLflow's variables hold a login."""
    return any(all(map(os.environ.get, names)) for names in _LOGIN_VARIABLES)


def is_server(uri: str) -> bool:
    """Return whether the URI is a tracking server's address."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """Return the database file of a resolved SQLite URI; None for any other."""
    is_sqlite = uri.startswith(SQLITE)
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if is_sqlite else None


def artifact_location(uri: str, base: Path) -> str | None:
    """Return where a new experiment's files go; None where a server decides.

    It is beside the database file, or in ``base`` for another database. MLflow's default would be
    relative to the current folder of the first process.
    """
    if urlsplit(uri).scheme.partition("+")[0] not in _DATABASES:
        return None
    database = sqlite_file(uri)
    folder = base.absolute() if database is None else database.parent
    return (folder / "mlartifacts").as_uri()


def check_tracking_reachable(uri: str) -> None:
    """Raise within about two seconds unless the store can be used.

    The error is `TrackingUnreachable` for a server, and `TrackingError` for a database file.
    """
    if (database := sqlite_file(uri)) is not None:
        folder = database.parent
        if not folder.is_dir():
            missing = f"{database}: the folder {folder} does not exist"
            raise TrackingError(missing, hint="create it first")
        target = database if database.exists() else folder
        if database.is_dir() or not os.access(target, os.W_OK):
            raise TrackingError(f"{target} cannot be written", hint=_SQLITE_HINT)
    elif is_server(uri) and (problem := _server_problem(uri)):
        hint = "start it, or choose a file: --set tracking.uri=sqlite:///mlflow.db"
        raise TrackingUnreachable(f"the MLflow server at {redact(uri)} {problem}", hint=hint)


def _server_problem(uri: str) -> str | None:
    parts = urlsplit(uri)
    health = urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        status = send_request("GET", health, timeout=PROBE_SECONDS).status
    except RequestFailed as error:
        return f"does not answer ({error})"
    # A proxy may ask for credentials; MLflow's client finds them and reports what is missing.
    return None if status < 400 or status in (401, 403) else f"answers {status} to /health"
