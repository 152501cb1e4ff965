"""Where the curves are kept: which tracking URIs a spec may name, and whether one answers."""

import os
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sumgrad.jobs.errors import SpecError, TrackingError, TrackingUnreachable
from sumgrad.jobs.support.http import RequestFailed, send_request
from sumgrad.jobs.support.redaction import is_redacted, redact, without_user

SQLITE = "sqlite:///"
#: MLflow retries an unreachable server for minutes; one question with a deadline comes first.
PROBE_SECONDS = 2.0
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SQLITE_HINT = "use a database file, such as sqlite:///mlflow.db, or a server's http address"
#: MLflow's own names: the address, and what stands in for a user and a password in it.
URI = "MLFLOW_TRACKING_URI"
LOGIN_VARIABLES = (
    ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    ("MLFLOW_TRACKING_TOKEN",),
)


def resolve_tracking_uri(uri: str, base: Path) -> str:
    """The tracking URI that a spec means, independent of the current folder.

    One that a run has recorded without its secrets gets them from the environment; see `whole`.

    Args:
        uri: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``http://…`` or whatever else
            MLflow takes.
        base: The folder that a relative database file belongs to.

    >>> resolve_tracking_uri("sqlite:///mlflow.db", Path("/jobs"))
    'sqlite:////jobs/mlflow.db'
    >>> resolve_tracking_uri("http://tracking:5000/", Path("/jobs"))
    'http://tracking:5000'

    Raises:
        SpecError: A folder, which MLflow no longer writes to, a database without a file, or a
            server's address that is none.
    """
    uri = with_credentials(_resolved(uri, base))
    if is_server(uri):
        _expect_host(uri)
    return uri


def _resolved(uri: str, base: Path) -> str:
    if is_server(uri):
        return uri.rstrip("/")
    if uri.startswith("sqlite:"):
        path, _, query = uri.removeprefix(SQLITE).partition("?")
        if not uri.startswith(SQLITE) or not path or ":memory:" in path:
            raise SpecError(
                f"'{redact(uri)}' names no database file", key="tracking.uri", hint=_SQLITE_HINT
            )
        # normpath, not resolve: a link to a database stays the link that its owner gave.
        absolute = os.path.normpath(base.absolute() / Path(path).expanduser())
        return f"{SQLITE}{absolute}" + (f"?{query}" if query else "")
    if "://" not in uri or uri.startswith("file:"):
        raise SpecError(
            f"'{redact(uri)}' is a folder, and MLflow keeps no runs in folders any more",
            key="tracking.uri",
            hint=_SQLITE_HINT,
        )
    return uri


def _expect_host(uri: str) -> None:
    """Raise where the host cannot be told from the rest, before anybody is asked for it."""
    try:
        parts = urlsplit(uri)
        is_address = bool(parts.hostname) and parts.port != 0 and not parts.netloc.endswith(":")
    except ValueError:
        is_address = False
    if not is_address:
        # Neither is the cause told, for it quotes what may be a part of the password.
        raise SpecError(
            f"'{redact(uri)}' is no address of a server",
            key="tracking.uri",
            hint="in a user or a password write / as %2F, ? as %3F, # as %23 and @ as %40; "
            "or put them into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )


def with_credentials(uri: str) -> str:
    """A recorded tracking URI with the secrets that were not recorded, if the environment has them.

    ``MLFLOW_TRACKING_URI`` is taken if it is the same without its secrets. Where MLflow finds user
    and password, or a token, in variables of their own, a server's address needs none.

    Args:
        uri: Resolved; one that is whole comes back as it is, and so does one whose secrets the
            environment does not have.
    """
    if not is_redacted(uri):
        return uri
    given = os.environ.get(URI, "")
    # Only servers and databases have secrets, and of those nothing else is resolved.
    given = given.rstrip("/") if is_server(given) else given
    if redact(given) == uri:
        return given
    if is_server(uri) and any(all(map(os.environ.get, names)) for names in LOGIN_VARIABLES):
        return without_user(uri)
    return uri


def is_server(uri: str) -> bool:
    """Whether the URI is a tracking server's address."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The database file of a resolved SQLite URI; None for any other."""
    if not uri.startswith(SQLITE):
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])


def artifact_location(uri: str, base: Path) -> str | None:
    """Where a new experiment's files go; None where a server decides.

    MLflow's own default for a database is ``./mlruns`` of whoever comes first. Ours is absolute:
    beside the database file, or for a database elsewhere in ``base``.
    """
    if urlsplit(uri).scheme.partition("+")[0] not in _DATABASES:
        return None
    database = sqlite_file(uri)
    folder = base.absolute() if database is None else database.parent
    return (folder / "mlartifacts").as_uri()


def check_tracking_reachable(uri: str) -> None:
    """Raise within about two seconds unless the store can be used.

    Raises:
        TrackingUnreachable: A server that does not answer.
        TrackingError: A database file that cannot be written.
    """
    database = sqlite_file(uri)
    if database is not None:
        _check_writable(database)
    elif is_server(uri):
        _check_answers(uri)


def _check_writable(database: Path) -> None:
    folder = database.parent
    if not folder.is_dir():
        raise TrackingError(f"{database}: there is no folder {folder}", hint="create it first")
    target = database if database.exists() else folder
    if database.is_dir() or not os.access(target, os.W_OK):
        raise TrackingError(f"{target} cannot be written", hint=_SQLITE_HINT)


def _check_answers(uri: str) -> None:
    parts = urlsplit(uri)
    health = urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        status = send_request("GET", health, timeout=PROBE_SECONDS).status
    except RequestFailed as error:
        problem = f"does not answer ({error})"
    else:
        # A proxy may ask for credentials; MLflow's client finds them and reports what is missing.
        if status < 400 or status in (401, 403):
            return
        problem = f"answers {status} to /health"
    raise TrackingUnreachable(
        f"the MLflow server at {redact(uri)} {problem}",
        hint="start it, or choose a file: --set tracking.uri=sqlite:///mlflow.db",
    )
