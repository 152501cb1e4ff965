"""A process that speaks as `sumgrad.jobs.tracking.mlflow_process` does, and starts quickly.

The run's id decides what becomes of it. Every message is appended to a file whose path is given as
the store's URI.
"""

import os
import pickle
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.support.threads import die_with_parent
from sumgrad.jobs.tracking.mlflow_process import connection_from_stdin

#: The variable with the seconds that the parent is asked to wait at first.
BUSY = "FAKE_MLFLOW_BUSY"
ERRORS: dict[str, Exception] = {
    "refused": TrackingError("the experiment is deleted", hint="restore it"),
    "away": TrackingUnreachable("the server does not answer", hint="start it"),
}


def receive(connection: Connection, notes: Path) -> None:
    name, *values = message = connection.recv()
    with notes.open("a") as file:
        file.write(f"{os.getpid()} {pickle.dumps(message).hex()}\n")
    if name == "run":
        is_first = len({line.split()[0] for line in notes.read_text().splitlines()}) == 1
        on_run(connection, values[0].name, is_first=is_first)
    if name == "end":
        if values[0].stop_reason == "slow":
            for _ in range(4):
                time.sleep(0.4)
                connection.send(("busy", 1.0))
        connection.send(("finished", values[0].status != "FAILED"))


def on_run(connection: Connection, name: str, *, is_first: bool) -> None:
    if name in ERRORS:
        connection.send(("failed", ERRORS[name]))
    elif name == "away-then-refused":
        for each in ("away", "refused"):
            connection.send(("failed", ERRORS[each]))
    elif name == "hangs":
        time.sleep(999)
    elif name == "frozen-once" and is_first:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif name == "killed-once" and is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "garbage":
        connection.send_bytes(b"no message")
    else:
        sys.stdout.write("a line that a library prints\n")
        sys.stdout.flush()
        connection.send(("warning", "metrics are delivered again"))
        connection.send(("registered",))


def main() -> None:
    die_with_parent()
    connection = connection_from_stdin()
    notes = Path(connection.recv()[1])
    with notes.open("a") as file:
        file.write(f"{os.getpid()} started\n")
    connection.send(("busy", float(os.environ.get(BUSY, "10"))))
    while True:
        receive(connection, notes)


if __name__ == "__main__":
    try:
        main()
    except EOFError:
        os._exit(0)
