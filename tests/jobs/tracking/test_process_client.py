"""The process that has MLflow: asked, hanging, killed, left alone; and none is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from sumgrad.jobs.errors import JobError, TrackingError, TrackingUnreachable
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.jobs.tracking import (
    DirectClient,
    Journal,
    Link,
    ProcessClient,
    RunMetadata,
    RunTracker,
    Store,
)
from sumgrad.jobs.tracking import process_client as process_module
from sumgrad.jobs.tracking.client import RunRef
from sumgrad.jobs.tracking.delivery import Refused
from sumgrad.jobs.tracking.direct_client import KEY_TAG
from sumgrad.jobs.tracking.messages import RemoteError
from sumgrad.jobs.tracking.outbox import Point
from tests.jobs.tracking.conftest import Tracker

STAND_IN = (sys.executable, "-P", str(Path(__file__).with_name("stand_in.py")))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """What the stand-in was asked."""
    return tmp_path / "notes"


@pytest.fixture
def asking(notes: Path) -> Iterator[ProcessClient]:
    """A client of a process that has no MLflow."""
    with ProcessClient(str(notes), command=STAND_IN) as client:
        yield client


def is_gone(pid: int) -> bool:
    """Whether no process has that id, not even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def expect_gone(pid: int) -> None:
    """Wait until a process is gone, or a zombie that is another's to bury."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return
    raise AssertionError(f"process {pid} is there")


def test_every_operation_arrives_as_it_was_meant(
    asking: ProcessClient, notes: Path, facts: RunMetadata
) -> None:
    tags = {"why": "ünd\n"}
    asking.prepare()
    link = Link(asking, facts, "key")
    assert link.linked() == RunRef("made", "experiment")
    assert asking.get_run("other") == RunRef("other", "experiment")
    point = Point("loss", 0.1 + 0.2, 3, 1000)
    asking.log_metrics("made", [point])
    assert asking.log_model("made", Path("/a b"), Path("/ä"), 7) == "model"
    asking.continue_run("made")
    asking.set_tags("made", tags)
    asking.end_run("made", tags, "KILLED")
    assert notes.read_text().splitlines() == [
        "prepare",
        "create_run iris False",
        "get_run other",
        f"log_metrics made {point}",
        "log_model made /a b /ä 7",
        "continue_run made",
        f"set_tags made {tags}",
        f"end_run made {tags} KILLED",
    ]


@pytest.mark.parametrize(
    ("run_id", "kind", "message", "hint"),
    [
        ("refuse", TrackingError, "the run is deleted", "restore it"),
        ("away", TrackingUnreachable, "nobody answers", "start it"),
        ("damaged", JobError, "no model there", ""),
        ("odd", Refused, "never", None),
        ("defect", RemoteError, "at http://***@host/x", None),
    ],
)
def test_errors_cross_with_message_and_hint(
    asking: ProcessClient, run_id: str, kind: type[Exception], message: str, hint: str | None
) -> None:
    with pytest.raises(kind) as caught:
        asking.get_run(run_id)
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert getattr(caught.value, "hint", None) == hint


def test_a_question_that_hangs_holds_up_no_other(asking: ProcessClient) -> None:
    hanging = [run_in_thread("hang", lambda: asking.get_run("hang")) for _ in range(20)]
    assert asking.get_run("other").run_id == "other"
    assert not any(question.done() for question in hanging)
    asking.close()
    for question in hanging:
        with pytest.raises(TrackingUnreachable, match="has ended"):
            question.result(30)


def test_one_that_is_killed_is_started_again(asking: ProcessClient, notes: Path) -> None:
    first = asking.pid
    with pytest.raises(TrackingUnreachable, match="has ended"):
        asking.get_run("die")
    assert asking.get_run("other").run_id == "other"
    assert first is not None
    assert asking.pid != first
    assert is_gone(first)
    assert notes.read_text().splitlines() == ["get_run die", "get_run other"]


def test_what_it_prints_is_no_answer(asking: ProcessClient) -> None:
    assert asking.get_run("print").run_id == "print"


def test_none_is_left_after_the_end_even_if_it_hangs(asking: ProcessClient) -> None:
    hanging = run_in_thread("hang", lambda: asking.get_run("hang"))
    asking.get_run("other")
    pid = asking.pid
    assert pid is not None
    asking.close()
    assert is_gone(pid)
    with pytest.raises(TrackingUnreachable, match="has ended"):
        hanging.result(30)
    with pytest.raises(TrackingUnreachable, match="was ended"):
        asking.get_run("other")
    asking.close()


def test_one_that_was_stopped_is_killed_in_the_end(asking: ProcessClient) -> None:
    asking.get_run("other")
    pid = asking.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    question = run_in_thread("ask", lambda: asking.get_run("other"))
    asking.close()
    assert is_gone(pid)
    with pytest.raises(TrackingUnreachable):
        question.result(30)


def test_one_that_cannot_be_started_is_an_outage(notes: Path, tmp_path: Path) -> None:
    with ProcessClient(str(notes), command=[str(tmp_path / "nothing")]) as client:
        assert client.pid is None
        with pytest.raises(TrackingUnreachable, match="can be started: No such file"):
            client.get_run("other")


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(1)",
        "import os; os.write(0, b'no JSON\\n')",
        "import os; os.write(0, b'[]')",
    ],
)
def test_one_that_does_not_speak_is_an_outage(notes: Path, code: str) -> None:
    with ProcessClient(str(notes), command=[sys.executable, "-c", code]) as client:
        for _ in range(2):
            with pytest.raises(TrackingUnreachable, match="has ended"):
                client.get_run("other")


def test_one_that_does_not_come_up_is_an_outage(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "START_SECONDS", 0.2)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        ProcessClient(str(notes), command=command) as client,
        pytest.raises(TrackingUnreachable, match=r"not been imported in 0\.2 s"),
    ):
        client.prepare()


PARENT = """
import sys, threading
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.jobs.tracking import ProcessClient
client = ProcessClient(sys.argv[1], command=sys.argv[2:])
client.get_run("other")
run_in_thread("hang", lambda: client.get_run("hang"))
client.get_run("other")
print(client.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(notes: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(notes), *STAND_IN], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait(30)
        expect_gone(pid)


def test_another_child_of_the_same_process_does_not_keep_it(asking: ProcessClient) -> None:
    pid = asking.pid
    assert pid is not None
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as other:
        asking.close()
        assert is_gone(pid)
        assert other.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_does_not_end_it(
    asking: ProcessClient, number: signal.Signals
) -> None:
    assert asking.pid is not None
    # At its very beginning, and when it is at work.
    os.kill(asking.pid, number)
    assert asking.get_run("one").run_id == "one"
    os.kill(asking.pid, number)
    assert asking.get_run("other").run_id == "other"


def test_a_run_whose_process_is_killed_is_delivered_once(
    store: Store, facts: RunMetadata, tmp_path: Path, said: list[str], folder: Path, example: Path
) -> None:
    with ProcessClient(store.uri) as client:
        link = Link(client, facts, "key")
        tracker = RunTracker(link, said.append, Journal(tmp_path / "metrics.jsonl", said.append))
        run_id = link.linked().run_id
        pids = []
        for epoch in range(1, 7):
            tracker.log_epoch(epoch, {"loss": 1 / epoch}, 1000 * epoch)
            if epoch % 2:
                assert tracker._queue.flush(60)
                continue
            assert client.pid is not None
            pids.append(client.pid)
            os.kill(client.pid, signal.SIGKILL)
            expect_gone(client.pid)
        assert tracker._queue.flush(60)
        assert tracker.log_model(folder, example, 6) is not None
        delivery = tracker.finish("FINISHED", patience=60)
    assert (delivery.unanswered, delivery.is_status_set) == (0, True)
    assert len(set(pids)) == 3
    (run,) = store.client.search_runs([link.linked().experiment_id])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    history = store.client.get_metric_history(run_id, "loss")
    assert [metric.step for metric in history] == list(range(1, 7))
    assert run.outputs is not None
    assert len(run.outputs.model_outputs) == 1


def test_one_that_is_killed_while_it_makes_the_run_makes_no_second(
    store: Store, direct: DirectClient, facts: RunMetadata
) -> None:
    class Dying(DirectClient):
        """Makes the run, and is gone before it says so."""

        def create_run(self, *arguments: object, **options: object) -> RunRef:
            direct.create_run(*arguments, **options)  # type: ignore[arg-type]
            raise TrackingUnreachable("the process that talks to MLflow has ended")

    link = Link(Dying(lambda: store), facts, "key")
    with pytest.raises(TrackingUnreachable):
        link.linked()
    link.client = direct
    assert [link.linked().run_id] == [
        run.info.run_id for run in store.client.search_runs([link.linked().experiment_id])
    ]


def test_both_clients_leave_the_same(
    store: Store,
    direct: DirectClient,
    facts: RunMetadata,
    folder: Path,
    example: Path,
    rows: pd.DataFrame,
) -> None:
    left = []
    with ProcessClient(store.uri) as asking:
        for client in (direct, asking):
            said: list[str] = []
            tracker = Tracker.start(client, facts, said.append)
            tracker.log_epoch(1, {"loss": 0.1 + 0.2}, 1000)
            model_id = tracker.log_model(folder, example, 1)
            tracker.finish("FINISHED", {"why": "ü" * 9000})
            run = store.client.get_run(tracker.run_id)
            assert model_id is not None
            location = store.client.get_logged_model(model_id).artifact_location
            files = Path(location.removeprefix("file://"))
            assert run.inputs is not None
            left.append(
                (
                    run.info.status,
                    run.data.params,
                    run.data.metrics,
                    {key: text for key, text in run.data.tags.items() if key != KEY_TAG},
                    [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs],
                    sorted(str(path.relative_to(files)) for path in files.rglob("*")),
                    mlflow.pyfunc.load_model(location).predict(rows).to_dict(),
                )
            )
            assert said == []
    assert left[0] == left[1]


@pytest.mark.parametrize("kind", ["direct", "process"])
def test_both_clients_say_the_same_of_what_fails(
    store: Store, facts: RunMetadata, tmp_path: Path, folder: Path, kind: str
) -> None:
    said: list[str] = []
    client = ProcessClient(store.uri) if kind == "process" else DirectClient(lambda: store)
    tracker = Tracker.start(client, facts, said.append)
    assert tracker.log_model(folder, tmp_path / "none.json", 1) is None
    store.client.delete_run(tracker.run_id)
    tracker.log_epoch(1, {"loss": 0.5})
    assert tracker.finish("FINISHED").undelivered == 1
    with pytest.raises(TrackingError, match="the run could not be asked for at sqlite") as caught:
        client.get_run("nothing")
    assert type(caught.value) is TrackingError
    assert said[0].startswith("the model could not be logged to MLflow: ")
    assert "none.json is damaged" in said[0]
    assert said[1].startswith("1 metric values were refused: ")
    if isinstance(client, ProcessClient):
        client.close()


def test_the_address_is_in_no_command_line(notes: Path) -> None:
    secret = notes.with_name("s3cr3t")
    with ProcessClient(str(secret), command=STAND_IN) as client:
        client.get_run("other")
        assert secret.exists()
        assert b"s3cr3t" not in Path(f"/proc/{client.pid}/cmdline").read_bytes()


def test_it_finds_sumgrad_where_the_folder_has_modules_of_its_names(
    uri: str, facts: RunMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jobs", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    with ProcessClient(uri) as client:
        tracker = Tracker.start(client, replace(facts, folder=tmp_path), print)
        assert tracker.finish("FINISHED").is_status_set


def test_many_threads_may_ask(asking: ProcessClient) -> None:
    wrong: list[str] = []

    def ask(name: str) -> None:
        for number in range(50):
            run_id = f"{name}-{number}"
            if asking.get_run(run_id).run_id != run_id:
                wrong.append(run_id)

    threads = [threading.Thread(target=ask, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
