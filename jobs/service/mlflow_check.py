"""A check that an MLflow store can be used from this machine."""

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

_UNAUTHORIZED = 401


def mlflow_problem(uri: str, login: Credentials | None = None) -> str | None:
    """Return why a tracking URI cannot be used from this machine; None if it can.

    A server answers ``/health`` to every client, but refuses other requests under a name that is
    not among its allowed hosts, or without a login. So another request is sent.

    Args:
        uri: As a spec or a cluster names it.
        login: For that server; the configured one by default.
    """
    try:
        uri = resolve_tracking_uri(uri, Path.cwd())
        check_tracking_reachable(uri)
        code, problem = _ask_anonymously(uri) if is_server(uri) else (None, None)
        if code == _UNAUTHORIZED:
            # MLflow's client finds a login in any of its sources.
            open_store(uri, login)
    except (TrackingError, SpecError) as error:
        return (
            f"{error.message}: {error.hint}" if isinstance(error, LoginRefused) else error.message
        )
    return problem


def requires_login(uri: str) -> bool:
    """Return whether a server refuses clients without a login."""
    return _ask_anonymously(resolve_tracking_uri(uri, Path.cwd()))[0] == _UNAUTHORIZED


def _ask_anonymously(uri: str) -> tuple[int | None, str | None]:
    """Return the status of an answer to a request without a login, and why it cannot be used."""
    question = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        answer = send_request("GET", question, timeout=PROBE_SECONDS)
    except RequestFailed as error:
        return None, f"{redact(uri)} does not answer ({error})"
    problem = None
    # 404: the server has no first experiment.
    if answer.status >= 400 and answer.status not in (_UNAUTHORIZED, 404):
        problem = f"the MLflow server at {redact(uri)} answers {answer.status}"
    if answer.status == 403 and "Host header" in answer.text:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        problem = (
            f"the MLflow server at {redact(uri)} does not admit requests to '{host}': add it to "
            "MLFLOW_SERVER_ALLOWED_HOSTS (or --allowed-hosts), which replaces the default list"
        )
    return answer.status, problem
