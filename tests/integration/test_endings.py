"""How commands end: exit code, one line of error, and the status of the run in MLflow."""

import http.server
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.runs.summary import JSON_KEYS
from tests.integration.command_line import Command, Finished, Folder


def raylet_of(driver: int) -> int:
    """Return the process id of the raylet that a driver started."""
    for status in Path("/proc").glob("[1-9]*/stat"):
        with suppress(OSError):
            name, _, fields = status.read_text().partition("(")[2].rpartition(")")
            if name == "raylet" and int(fields.split()[1]) == driver:
                return int(status.parent.name)
    raise AssertionError(f"process {driver} has no Ray instance")


@pytest.mark.ray
def test_a_dead_local_ray_ends_the_run_at_once(folder: Folder) -> None:
    """No worker can join any more, so the run does not wait, and it can be resumed."""
    endless = ("--set", "stop.max_epochs=1000000", "--set", "stop.tolerance=1e-300")
    process = folder.start("train", "flowers.yaml", *endless, "--set", "cluster.address=local")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None, process.communicate()
    killed = time.monotonic()
    os.kill(raylet_of(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    done = Finished(process.returncode, out, err)
    assert done.code == 3, err
    assert "Ray's raylet on this machine has exited" in done.error
    assert time.monotonic() - killed < 60
    assert folder.mlflow_run().info.status == "FAILED"
    [checkpoints] = (folder.path / "runs").glob("*/checkpoints")
    assert list(checkpoints.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "nowhere.yaml"), 2, "nowhere.yaml: cannot be read"),
        (("train",), 2, "Missing argument"),
        (("train", "flowers.yaml", "--nonsense"), 2, "No such option"),
        (("fly",), 2, "No such command"),
        (("train", "flowers.yaml", "--set", "optimizer.etaa=1"), 2, "unknown key"),
        (("train", "flowers.yaml", "--set", "data.train=no.csv"), 2, "there is no file"),
        (("train", "flowers.yaml", "--set", "data.label=colour"), 2, "has no column 'colour'"),
        (("train", "flowers.yaml", "--set", "model.layers[1].units=4"), 2, "3 classes"),
        (
            ("train", "flowers.yaml", "--set", "tracking.uri=runs"),
            2,
            "no longer keeps runs in folders",
        ),
        (("train", "flowers.yaml", "--set", "tracking.uri=htp://h:1"), 2, "unknown scheme"),
        (("train", "flowers.yaml", "--set", "cluster.address=a:1:b"), 2, "is not inline, local"),
        (("evaluate", "abcdef", "flowers.csv"), 2, "no run abcdef"),
        (("predict", "nothing-here", "flowers.csv"), 2, "no run nothing-here"),
        (("evaluate", ".", "flowers.csv"), 2, "has no model.json"),
        (("gradcheck", "flowers.yml"), 2, "cannot be read"),
        (("init", "digitz"), 2, "no shipped example"),
        (("config", "validate", "flowers.yaml", "--set", "x"), 2, "is not key=value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_usage_is_one_line(
    folder: Folder, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = folder.sumgrad(*arguments)
    assert message in done.error
    assert done.code == code
    assert not folder.mlflow_runs(), "a refused job leaves no run"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.0,,rose", "flowers.csv, column 'sepal', row 181: the value is missing"),
        ("1.0,tall,rose", "flowers.csv, column 'sepal', row 181: 'tall' is not a number"),
        ("1.0,inf,rose", "column 'sepal', row 181: inf is not a finite number"),
    ],
)
def test_invalid_data_is_located_by_file_column_and_row(
    folder: Folder, row: str, message: str
) -> None:
    with (folder.path / "flowers.csv").open("a") as file:
        file.write(row + "\n")
    done = folder.sumgrad("train", "flowers.yaml")
    assert done.code == 1
    assert message in done.error


def test_a_diverging_run_fails_and_saves_the_last_finite_weights(folder: Folder) -> None:
    done = folder.sumgrad(
        "train",
        "flowers.yaml",
        "--json",
        *("--set", "optimizer.eta=1e30", "--set", "model.layers[0].activation=identity"),
    )
    assert done.code == 1
    assert "is not finite at epoch 1, step" in done.error
    assert "learning rate" in done.err
    assert (done.result["status"], done.result["stop_reason"]) == ("FAILED", "diverged")
    assert tuple(done.result) == JSON_KEYS
    assert len(done.out.splitlines()) == 1, "the error has no object of its own"
    run = folder.mlflow_run()
    assert run.info.status == "FAILED"
    assert run.data.tags["sumgrad.stop_reason"] == "diverged"
    model = load_model(Path(done.result["checkpoint"]))
    assert model.parameters.sha256() == done.result["weights_sha256"]


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hanging_tracking_server_is_exit_code_3(folder: Folder, hanging_server: str) -> None:
    uri = ("--set", f"tracking.uri={hanging_server}")
    done = folder.sumgrad("train", "flowers.yaml", *uri, "--set", "tracking.on_unavailable=fail")
    assert done.code == 3
    assert "does not answer" in done.error
    assert "epoch " not in done.out, "it does not start"


@pytest.mark.parametrize("uri", ["sqlite:////proc/x/mlflow.db", "sqlite:///flowers.csv/mlflow.db"])
def test_an_impossible_store_is_refused_before_the_start(folder: Folder, uri: str) -> None:
    done = folder.sumgrad("train", "flowers.yaml", "--set", f"tracking.uri={uri}")
    assert done.code == 3
    assert "does not exist" in done.error
    assert done.out == ""


class _Broken(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, *_: object) -> None:
        pass


def test_a_failing_tracking_server_is_exit_code_3(folder: Folder) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_address[1]}"
        store = ("--set", f"tracking.uri={uri}")
        done = folder.sumgrad(
            "train", "flowers.yaml", *store, "--set", "tracking.on_unavailable=fail"
        )
        server.shutdown()
    assert done.code == 3
    assert "answers 500" in done.error


def test_an_unreachable_cluster_leaves_no_running_run(folder: Folder) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = folder.sumgrad("train", "flowers.yaml", "--set", f"cluster.address=127.0.0.1:{port}")
    assert done.code == 3
    assert "no Ray cluster answers" in done.error
    assert not folder.mlflow_runs() or folder.mlflow_run().info.status == "FAILED"


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_saves_the_weights_and_marks_the_run_as_killed(
    folder: Folder,
    edit: Callable[[str, str], None],
    number: signal.Signals,
    code: int,
    reason: str,
) -> None:
    edit("max_epochs: 8", "max_epochs: 1000000")
    process = folder.start("train", "flowers.yaml", "--json")
    wait_for_first_epoch(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    done = Finished(process.returncode, out, err)
    assert done.code == code, err
    assert (done.result["status"], done.result["stop_reason"]) == ("KILLED", reason)
    assert done.result["test_accuracy"] is None
    run = folder.mlflow_run()
    assert run.info.status == "KILLED"
    assert run.data.tags["sumgrad.stop_reason"] == reason
    model = load_model(Path(done.result["checkpoint"]))
    assert model.parameters.sha256() == done.result["weights_sha256"]


@pytest.mark.parametrize("seconds", [0.3, 2.5])
def test_termination_during_the_start_is_exit_code_143(folder: Folder, seconds: float) -> None:
    process = folder.start("train", "flowers.yaml", "--json", "--set", "cluster.address=local")
    assert process.stderr is not None
    assert "starting Ray" in process.stderr.readline()
    # The signal arrives at an arbitrary moment of the start.
    time.sleep(seconds)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert not folder.mlflow_runs() or folder.mlflow_run().info.status == "KILLED"


def wait_for_first_epoch(process: Command) -> None:
    """Read the output until the first epoch is done."""
    assert process.stderr is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.stderr.readline().startswith("epoch "):
            return
    pytest.fail("no epoch within a minute")


def test_debug_prints_a_traceback(folder: Folder) -> None:
    done = folder.sumgrad("train", "nowhere.yaml", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err
    assert "error: nowhere.yaml" in done.err


def test_a_closed_pipe_prints_no_traceback(folder: Folder) -> None:
    with folder.start("config", "schema") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
