"""Whether an MLflow server takes requests from a place, and if not, why not."""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.config.tracking_uri import (
    PROBE_SECONDS,
    check_tracking_reachable,
    is_server,
    resolve_tracking_uri,
)
from sumgrad.jobs.errors import LoginRefused, SpecError, TrackingError
from sumgrad.jobs.support.redaction import redact, redact_text
from sumgrad.jobs.tracking.store import open_store

_WANTS_LOGIN = 401


def mlflow_problem(uri: str, login: Credentials | None = None) -> str | None:
    """What keeps a tracking URI from being used here; None if nothing does.

    A server answers ``/health`` to everybody, and refuses everything else to those who call it by
    a name that is not among its allowed hosts, or have no login. So something else is asked.

    Args:
        uri: As a spec or a context names it.
        login: For that server; by default the one that is known to be for it.
    """
    try:
        uri = resolve_tracking_uri(uri, Path.cwd())
        check_tracking_reachable(uri)
        code, problem = _asked_by_a_stranger(uri) if is_server(uri) else (None, None)
        if code == _WANTS_LOGIN:
            # MLflow's own client finds the login wherever that may be, and shows it.
            open_store(uri, login)
    except (TrackingError, SpecError) as error:
        return (
            f"{error.message}: {error.hint}" if isinstance(error, LoginRefused) else error.message
        )
    return problem


def requires_login(uri: str) -> bool:
    """Whether a server that can be used refuses those who have no login."""
    return _asked_by_a_stranger(resolve_tracking_uri(uri, Path.cwd()))[0] == _WANTS_LOGIN


def _asked_by_a_stranger(uri: str) -> tuple[int | None, str | None]:
    """The code that a server answers to who shows no login, and why it cannot be used."""
    parts = urllib.parse.urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    path = f"{parts.path.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        with urllib.request.urlopen(  # noqa: S310 - http(s) only
            f"{parts.scheme}://{host}{path}", timeout=PROBE_SECONDS
        ) as response:
            return int(response.status), None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _explained(error, uri, host)
    except (OSError, http.client.HTTPException) as error:
        why = redact_text(str(getattr(error, "reason", error)))
        return None, f"{redact(uri)} does not answer ({why})"


def _explained(error: urllib.error.HTTPError, uri: str, host: str) -> str | None:
    if error.code == 403 and b"Host header" in _body(error):
        return (
            f"the MLflow server at {redact(uri)} does not admit requests to '{host}': add it to "
            "MLFLOW_SERVER_ALLOWED_HOSTS (or --allowed-hosts), which replaces the default list"
        )
    # 404: it has no first experiment.
    if error.code in (_WANTS_LOGIN, 404):
        return None
    return f"the MLflow server at {redact(uri)} answers {error.code}"


def _body(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(1000)
    except (OSError, http.client.HTTPException):
        return b""
