"""What client and head share of ``sumgrad doctor``: the records of checks, and that of MLflow."""

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.dataclasses import dataclass

from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.config.tracking_uri import (
    PROBE_SECONDS,
    check_tracking_reachable,
    is_server,
    resolve_tracking_uri,
)
from sumgrad.jobs.errors import SpecError, TrackingError, TrackingUnreachable
from sumgrad.jobs.support.http import RequestFailed, send_request
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.tracking.store import LOGIN_PROBE_PATH, open_store

#: The line of the log that holds the head's report as JSON starts with it.
REPORT_PREFIX = "sumgrad-probe: "


@dataclass(frozen=True)
class Check:
    """A finding and how to fix it; ``warn`` is for what works but should be changed."""

    name: str
    status: Literal["ok", "warn", "FAIL"]
    message: str
    hint: str = ""


class Report(BaseModel):
    """Checks of a cluster's head, and the clock of each machine in seconds since 1970."""

    checks: tuple[Check, ...]
    clocks: tuple[float, ...] = ()


def check_mlflow(name: str, uri: str, login: Credentials | None = None) -> tuple[Check, bool]:
    """Check that a store can be used from this machine, and return whether it requires a login.

    A server answers ``/health`` to every client, but refuses other requests under a name that is
    not among its allowed hosts, or without a login. So another request is sent. The ``login`` is
    by default the one that is configured for the server.
    """
    requires_login = False
    try:
        uri = resolve_tracking_uri(uri, Path.cwd())
        check_tracking_reachable(uri)
        if is_server(uri) and (requires_login := _requires_login(uri)):
            # MLflow's client finds a login in any of its sources.
            open_store(uri, login)
    except TrackingUnreachable as error:
        return Check(name, "FAIL", error.message), False
    except (TrackingError, SpecError) as error:
        return Check(name, "FAIL", error.message, error.hint), False
    kind = "answers" if is_server(uri) else "is a database that can be used"
    return Check(name, "ok", f"{redact(uri)} {kind}"), requires_login


def _requires_login(uri: str) -> bool:
    """Return whether a server refuses a client without a login, or raise `TrackingUnreachable`."""
    try:
        answer = send_request("GET", f"{uri}{LOGIN_PROBE_PATH}", timeout=PROBE_SECONDS)
    except RequestFailed as error:
        raise TrackingUnreachable(f"{redact(uri)} does not answer ({error})") from None
    if answer.status == 403 and "Host header" in answer.text:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        raise TrackingUnreachable(
            f"the MLflow server at {redact(uri)} rejects requests to '{host}': add it to "
            "MLFLOW_SERVER_ALLOWED_HOSTS (or --allowed-hosts), which replaces the default list"
        )
    # 404: the server has no first experiment.
    if answer.status >= 400 and answer.status not in (401, 404):
        raise TrackingUnreachable(f"the MLflow server at {redact(uri)} answers {answer.status}")
    return answer.status == 401
