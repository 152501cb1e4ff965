"""What runs in the process that has MLflow: ``python -P -m sumgrad.jobs.tracking.mlflow_process``.

Each request is answered in a thread of its own, so that one that hangs holds up no other. There is
nobody left to work for when the socket is at its end, and then the process is, too, at once.
"""

import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from sumgrad.jobs.tracking.client import TrackingClient
from sumgrad.jobs.tracking.messages import error_line, perform, result_line

Client = TypeVar("Client", bound=TrackingClient)


class Service(Generic[Client]):
    """Answers requests with a client.

    Args:
        channel: To the process that asks.
        make_client: From the store's URI, which the first message has.

    Attributes:
        client: Once that message has come.
    """

    def __init__(self, channel: socket.socket, make_client: Callable[[str], Client]) -> None:
        self._channel = channel
        self._make_client = make_client
        self._sending = threading.Lock()
        self.client: Future[Client] = Future()
        self._reader = threading.Thread(target=self._read, name="requests", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            with self._channel.makefile("rb") as lines:
                for line in lines:
                    self._take(json.loads(line))
        finally:
            # Not sys.exit, which would wait for whatever hangs.
            os._exit(0)

    def _take(self, request: Mapping[str, Any]) -> None:
        if request["method"] == "open":
            self.client.set_result(self._make_client(request["params"]["uri"]))
            self._reply(result_line(request["id"], None))
        else:
            name = request["method"]
            threading.Thread(target=self._answer, args=(request,), name=name, daemon=True).start()

    def _answer(self, request: Mapping[str, Any]) -> None:
        number = request["id"]
        try:
            result = perform(self.client.result(), request["method"], request["params"])
            line = result_line(number, result)
        except Exception as error:  # noqa: BLE001 - told to the process that asked
            line = error_line(number, error)
        self._reply(line)

    def _reply(self, line: bytes) -> None:
        with suppress(OSError), self._sending:
            self._channel.sendall(line)

    def wait(self) -> None:
        """Until the process ends."""
        self._reader.join()


def take_channel() -> socket.socket:
    """The socket that this process was given as its standard input, which becomes an empty one."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # The process that started us meets them, and has something to tell us after that.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    # A copy is not inherited by processes that MLflow may start.
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # Nobody reads what is printed, but somebody may read an error.
    sys.stdout = sys.stderr
    return channel


def main() -> None:
    """Serve the process that started this one, until that ends."""
    # What is imported stays; to look through it again and again takes a sixth of the time.
    gc.disable()
    channel = take_channel()
    from sumgrad.jobs.tracking.direct_client import DirectClient
    from sumgrad.jobs.tracking.model_logging import import_ahead
    from sumgrad.jobs.tracking.store import open_store

    service = Service(channel, lambda uri: DirectClient(lambda: open_store(uri)))
    client = service.client.result()
    client.prepare()
    # A store that does not answer now is asked again by the first request.
    with suppress(Exception):
        client.open()
    import_ahead()
    gc.freeze()
    gc.enable()
    service.wait()


if __name__ == "__main__":
    main()
