"""Operations on runs as lines of JSON, to and from the process that has MLflow.

A request has a number, which its reply repeats: replies come in any order. An error crosses by its
name, with message and hint; nothing that could run code does.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sumgrad.jobs.errors import JobError, TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking.client import RunDescription, TrackingClient
from sumgrad.jobs.tracking.delivery import Refused
from sumgrad.jobs.tracking.outbox import Point
from sumgrad.jobs.tracking.store import first_line
from sumgrad.model.errors import SumgradError

#: Errors that keep their kind; others become the nearest of their bases that is here.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (SumgradError, JobError, TrackingError, TrackingUnreachable, Refused)
}


class RemoteError(Exception):
    """Something unforeseen went wrong in the other process; the text is what it said."""


def request_line(number: int, method: str, params: Mapping[str, Any]) -> bytes:
    """A request; the parameters are what `perform` takes."""
    return _line({"id": number, "method": method, "params": params})


def result_line(number: int, result: Any) -> bytes:
    """The reply to a request that was met."""
    return _line({"id": number, "result": result})


def error_line(number: int, error: Exception) -> bytes:
    """The reply to a request that failed."""
    names = [kind.__name__ for kind in type(error).__mro__]
    kind = next((name for name in names if name in _KINDS), RemoteError.__name__)
    told = {"kind": kind, "message": first_line(error), "hint": ""}
    if isinstance(error, SumgradError):
        told |= {"message": error.message, "hint": error.hint}
    return _line({"id": number, "error": told})


def settle(future: "Future[Any]", reply: Mapping[str, Any]) -> None:
    """Give a reply's result, or its error, to whoever waits for it."""
    if "result" in reply:
        future.set_result(reply["result"])
        return
    told = reply["error"]
    kind = _KINDS.get(told["kind"], RemoteError)
    if issubclass(kind, SumgradError):
        future.set_exception(kind(told["message"], hint=told["hint"]))
    else:
        future.set_exception(kind(told["message"]))


def perform(client: TrackingClient, method: str, params: Mapping[str, Any]) -> Any:
    """Do what a request asks for; gives the result as JSON can hold it."""
    match method:
        case "prepare":
            client.prepare()
        case "create_run":
            run = RunDescription.from_json(params["run"])
            return asdict(client.create_run(run, may_exist=params["may_exist"]))
        case "get_run":
            return asdict(client.get_run(params["run_id"]))
        case "log_metrics":
            points = [Point(*point) for point in params["points"]]
            client.log_metrics(params["run_id"], points)
        case "log_model":
            folder, example = Path(params["folder"]), Path(params["example"])
            return client.log_model(params["run_id"], folder, example, params["step"])
        case "end_run":
            client.end_run(params["run_id"], params["tags"], params["status"])
        case "set_tags":
            client.set_tags(params["run_id"], params["tags"])
        case "continue_run":
            client.continue_run(params["run_id"])
        case _:
            raise ValueError(f"no such method: {method}")
    return None


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
