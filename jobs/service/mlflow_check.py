"""Whether an MLflow server takes requests from a place, and if not, why not."""

from pathlib import Path
from urllib.parse import urlsplit

from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.config.tracking_uri import (
    PROBE_SECONDS,
    check_tracking_reachable,
    is_server,
    resolve_tracking_uri,
)
from sumgrad.jobs.errors import LoginRefused, SpecError, TrackingError
from sumgrad.jobs.support.http import RequestFailed, send_request
from sumgrad.jobs.support.redaction import redact
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
        code, problem = _ask_anonymously(uri) if is_server(uri) else (None, None)
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
    return _ask_anonymously(resolve_tracking_uri(uri, Path.cwd()))[0] == _WANTS_LOGIN


def _ask_anonymously(uri: str) -> tuple[int | None, str | None]:
    """Return the status of an answer to a request without a login, and why it cannot be used."""
    question = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        answer = send_request("GET", question, timeout=PROBE_SECONDS)
    except RequestFailed as error:
        return None, f"{redact(uri)} does not answer ({error})"
    problem = None
    # 404: the server has no first experiment.
    if answer.status >= 400 and answer.status not in (_WANTS_LOGIN, 404):
        problem = f"the MLflow server at {redact(uri)} answers {answer.status}"
    if answer.status == 403 and "Host header" in answer.text:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        problem = (
            f"the MLflow server at {redact(uri)} does not admit requests to '{host}': add it to "
            "MLFLOW_SERVER_ALLOWED_HOSTS (or --allowed-hosts), which replaces the default list"
        )
    return answer.status, problem
