"""Where the curves are kept: which tracking URIs a spec may name, and whether one answers."""

import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from jobs.errors import SpecError, TrackingError, TrackingUnreachable

SQLITE = "sqlite:///"
#: MLflow retries an unreachable server for minutes; one question with a deadline comes first.
PROBE_SECONDS = 2.0
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SQLITE_HINT = "use a database file, such as sqlite:///mlflow.db, or a server's http address"


def resolve_tracking_uri(uri: str, base: Path) -> str:
    """The tracking URI that a spec means, independent of the current folder.

    Args:
        uri: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``http://…`` or whatever else
            MLflow takes.
        base: The folder that a relative database file belongs to.

    >>> resolve_tracking_uri("sqlite:///mlflow.db", Path("/jobs"))
    'sqlite:////jobs/mlflow.db'
    >>> resolve_tracking_uri("http://tracking:5000/", Path("/jobs"))
    'http://tracking:5000'

    Raises:
        SpecError: A folder, which MLflow no longer writes to, or a database without a file.
    """
    if is_server(uri):
        return uri.rstrip("/")
    if uri.startswith("sqlite:"):
        path, _, query = uri.removeprefix(SQLITE).partition("?")
        if not uri.startswith(SQLITE) or not path or ":memory:" in path:
            raise SpecError(
                f"'{uri}' names no database file", place="tracking.uri", hint=_SQLITE_HINT
            )
        # normpath, not resolve: a link to a database stays the link that its owner gave.
        absolute = os.path.normpath(base.absolute() / Path(path).expanduser())
        return f"{SQLITE}{absolute}" + (f"?{query}" if query else "")
    if "://" not in uri or uri.startswith("file:"):
        raise SpecError(
            f"'{uri}' is a folder, and MLflow keeps no runs in folders any more",
            place="tracking.uri",
            hint=_SQLITE_HINT,
        )
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


def redact(uri: str) -> str:
    """The URI without user and password, for logs and the screen.

    >>> redact("https://me:secret@tracking.example:5000/path")
    'https://***@tracking.example:5000/path'
    """
    parts = urlsplit(uri)
    credentials, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"***@{host}")) if at and credentials else uri


def check_reachable(uri: str) -> None:
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
    # urllib takes a user and a password in an address for a part of the host's name.
    host = parts.netloc.rpartition("@")[2]
    probe = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        with urllib.request.urlopen(probe, timeout=PROBE_SECONDS):  # noqa: S310 - http(s) only
            return
    except urllib.error.HTTPError as error:
        # Authentication stands in front of some servers; it is MLflow's to answer, not ours.
        if error.code in (401, 403):
            return
        problem = f"answers {error.code} to /health"
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        problem = f"does not answer ({reason})"
    raise TrackingUnreachable(
        f"the MLflow server at {redact(uri)} {problem}",
        hint="start it, or choose a file: --set tracking.uri=sqlite:///mlflow.db",
    )
