"""Whether an MLflow server takes requests from a place, and if not, why not."""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from jobs.errors import SpecError, TrackingError
from jobs.tracking.location import (
    PROBE_SECONDS,
    check_reachable,
    is_server,
    resolve_tracking_uri,
)
from jobs.tracking.redaction import redact, redact_text


def mlflow_problem(uri: str) -> str | None:
    """What keeps a tracking URI from being used here; None if nothing does.

    A server answers ``/health`` to everybody, and refuses everything else to those who call it by
    a name that is not among its allowed hosts. So something else is asked.
    """
    try:
        uri = resolve_tracking_uri(uri, Path.cwd())
        check_reachable(uri)
    except (TrackingError, SpecError) as error:
        return error.message
    if not is_server(uri):
        return None
    parts = urllib.parse.urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    path = f"{parts.path.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        with urllib.request.urlopen(  # noqa: S310 - http(s) only
            f"{parts.scheme}://{host}{path}", timeout=PROBE_SECONDS
        ):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return _explained(error, uri, host)
    except (OSError, http.client.HTTPException) as error:
        why = redact_text(str(getattr(error, "reason", error)))
        return f"{redact(uri)} does not answer ({why})"


def _explained(error: urllib.error.HTTPError, uri: str, host: str) -> str | None:
    if error.code == 403 and b"Host header" in _body(error):
        return (
            f"the MLflow server at {redact(uri)} does not admit requests to '{host}': add it to "
            "MLFLOW_SERVER_ALLOWED_HOSTS (or --allowed-hosts), which replaces the default list"
        )
    # 401: it wants a login, which MLflow's own variables give. 404: it has no first experiment.
    if error.code in (401, 404):
        return None
    return f"the MLflow server at {redact(uri)} answers {error.code}"


def _body(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(1000)
    except (OSError, http.client.HTTPException):
        return b""
