"""A process that speaks as `sumgrad.jobs.tracking.mlflow_process` does, and starts quickly.

The run's id decides what becomes of it. Every message is appended to a file whose path is given as
the store's URI.
"""

import json
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.support.threads import die_with_parent
from sumgrad.jobs.tracking.mlflow_process import error_to_json, take_connection

ERRORS: dict[str, Exception] = {
    "refused": TrackingError("the experiment is deleted", hint="restore it"),
    "away": TrackingUnreachable("the server does not answer", hint="start it"),
    "defect": ZeroDivisionError("at http://me:s3cr3t@host/x"),
}


def send(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection, notes: Path) -> None:
    message = json.loads(connection.recv_bytes())
    with notes.open("a") as file:
        file.write(f"{os.getpid()} {json.dumps(message)}\n")
    if "run" in message:
        is_first = len({line.split()[0] for line in notes.read_text().splitlines()}) == 1
        on_run(connection, Path(message["run"]).name, is_first=is_first)
    if "end" in message:
        if message["end"]["stop_reason"] == "slow":
            for _ in range(4):
                time.sleep(0.4)
                send(connection, busy=1.0)
        send(connection, finished=message["end"]["status"] != "FAILED")


def on_run(connection: Connection, name: str, *, is_first: bool) -> None:
    if name in ERRORS:
        send(connection, failed=error_to_json(ERRORS[name]))
    elif name == "hangs":
        time.sleep(999)
    elif name == "frozen-once" and is_first:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif name == "killed-once" and is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "garbage":
        connection.send_bytes(b"no JSON")
    else:
        sys.stdout.write("a line that a library prints\n")
        sys.stdout.flush()
        send(connection, warning="metrics are delivered again")
        send(connection, registered=True)


def main() -> None:
    die_with_parent()
    connection = take_connection()
    notes = Path(json.loads(connection.recv_bytes())["uri"])
    with notes.open("a") as file:
        file.write(f"{os.getpid()} started\n")
    send(connection, ready=True)
    while True:
        receive(connection, notes)


if __name__ == "__main__":
    try:
        main()
    except EOFError:
        os._exit(0)
