"""Commands about the jobs of a cluster: what they print, and their exit codes."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sumgrad.jobs.config.clusters import Cluster, ClusterConfig, write_cluster_config
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.service.client import follow
from sumgrad.jobs.service.manifest import RESULT_PREFIX
from sumgrad.jobs.service.states import FAILED, RUNNING, STOPPED, SUCCEEDED, Attempt
from sumgrad.jobs.tracking.outbox import Receipt
from tests.jobs.cli.commands import Sumgrad, error_line
from tests.jobs.runs.records import RECORD_OF_A_RUN
from tests.jobs.service.fakes import ADDRESS, FakeRayJobsClient

NEED_A_CLUSTER = (
    *(["submit", "digits"], ["status", "x-1"], ["logs", "x-1"], ["logs", "-f", "x-1"]),
    *(["stop", "x-1"], ["wait", "x-1"], ["delete", "x-1"], ["doctor"]),
    ["submit", "digits", "--dry-run"],
)


@pytest.mark.parametrize("command", NEED_A_CLUSTER, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_cluster_must_be_selected(command: list[str], as_json: bool, sumgrad: Sumgrad) -> None:
    done = sumgrad(*command, *(["--json"] if as_json else []))
    assert done.code == 2
    assert "no cluster is selected" in error_line(done, as_json=as_json)
    assert "sumgrad cluster up" in done.err


@pytest.mark.parametrize("command", NEED_A_CLUSTER, ids=" ".join)
@pytest.mark.parametrize("where", ["unknown", "ray://head:1", "http://me:s3cr3t@head", "http://[x"])
def test_an_invalid_cluster_is_refused_without_its_password(
    command: list[str], where: str, sumgrad: Sumgrad
) -> None:
    done = sumgrad(*command, "--cluster", where)
    assert done.code == 2
    assert "s3cr3t" not in error_line(done) + done.err


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "command", [each for each in NEED_A_CLUSTER if each[-1] not in ("doctor", "--dry-run")]
)
def test_an_unreachable_cluster_is_exit_code_3(
    command: list[str], as_json: bool, server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    server.memory.is_unreachable = True
    done = sumgrad(*command, *(["--json"] if as_json else []))
    assert done.code == 3
    assert "no cluster answers" in error_line(done, as_json=as_json)


@pytest.mark.parametrize("command", ["status", "logs", "stop", "wait", "delete", "resume"])
def test_an_unknown_job_is_exit_code_2(
    command: str, server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    done = sumgrad(command, "gone-1")
    assert done.code == 2
    assert "has no job 'gone-1'" in error_line(done)
    assert sumgrad(command).code == 2
    assert sumgrad(command, "digits-1", "--nonsense").code == 2


def test_a_submission_prints_the_next_commands(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    done = sumgrad("submit", "digits", "--id", "new-1", "--set", "seed=5", "-c", "http://h:1")
    assert done.code == 0
    assert done.out.splitlines() == [
        "job new-1 submitted: http://h:1",
        "Follow its log:  sumgrad logs -f new-1 --cluster http://h:1",
        "See its state:   sumgrad status new-1 --cluster http://h:1",
        "Stop it:         sumgrad stop new-1 --cluster http://h:1",
    ]
    assert yaml.safe_load(server.memory.sent[0].manifest["spec_yaml"])["seed"] == 5


def test_the_same_job_is_submitted_once(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    new = sumgrad("submit", "digits", "--id", "new-1", "--json")
    assert (new.code, new.json) == (
        0,
        {"id": "new-1", "submission_id": "new-1", "is_new": True, "cluster": ADDRESS},
    )
    assert sumgrad("submit", "digits", "--id", "new-1", "--json").json["is_new"] is False
    assert "was submitted before" in sumgrad("submit", "digits", "--id", "new-1").out
    other = sumgrad("submit", "digits", "--id", "new-1", "--set", "seed=5")
    assert (other.code, len(server.memory.sent)) == (2, 1)
    assert "has another job with the id" in error_line(other)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["digits", "--id", "../x"], ["digits", "--code", "mine"], ["nothing"], []),
        *(["digits", "--set", "sed=1"], ["digits", "--set", "data.train=gone.csv"]),
        *(["digits", "--set", "data.train=s3://k:s3cr3t@b/x"], ["digits", "more"]),
        ["digits", "--set", "tracking.uri=http://me:s3cr3t@host"],
        ["digits", "--set", "data.train=gone.csv", "--upload"],
    ],
)
def test_an_invalid_submission_contacts_no_cluster(
    arguments: list[str], server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    done = sumgrad("submit", *arguments)
    assert done.code == 2
    assert "s3cr3t" not in error_line(done) + done.err
    assert server.memory.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "digits", "--dry-run", "--wait"),
        ("cluster", "use", "lab", "--none"),
        ("cluster", "use"),
    ],
)
def test_contradicting_options_are_refused(
    arguments: tuple[str, ...], server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    done = sumgrad(*arguments)
    assert done.code == 2
    assert ("--wait" if arguments[0] == "submit" else "--none") in error_line(done)
    assert server.memory.calls == []


@pytest.mark.parametrize("command", ["status", "logs", "stop", "wait", "delete"])
@pytest.mark.parametrize(
    "job_id", ["", " ", "../../etc", "a/b", "ü", "x" * 5000, "a\nb", "\x1b[2J", "%00", "*", "di"]
)
def test_an_invalid_id_is_one_printable_line(
    command: str, job_id: str, server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    done = sumgrad(command, "--", job_id)
    assert done.code == 2
    assert len(error_line(done)) < 1100
    assert done.err.replace("\n", "").isprintable()
    assert server.memory.calls == ["list_attempts"]


def test_a_dry_run_contacts_no_cluster(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    done = sumgrad("submit", "digits", "--id", "new-1", "--dry-run")
    assert done.code == 0
    assert done.out.startswith(f"would send:\nid: new-1\ncluster: {ADDRESS}\n")
    as_json = sumgrad("submit", "digits", "--id", "new-1", "--dry-run", "--json").json
    assert (as_json["id"], as_json["cluster"]) == ("new-1", ADDRESS)
    assert server.memory.calls == []


class Ending(FakeRayJobsClient):
    """A cluster on which a job ends as soon as it is submitted."""

    def __init__(self, state: str, exit_code: int | None) -> None:
        super().__init__()
        self._end = (state, exit_code)

    def get_attempt(self, submission_id: str) -> Attempt:
        found = super().get_attempt(submission_id)
        status = "FINISHED" if self._end[0] == SUCCEEDED else "FAILED"
        result = f'{RESULT_PREFIX}{{"run_id": "ab", "status": "{status}"}}'
        self.memory.logs[submission_id] = f"epoch 1\n{result}\nbye\n"
        return replace(found, ray_state=self._end[0], driver_exit_code=self._end[1])


@pytest.mark.parametrize(
    ("state", "given", "ended", "word"),
    [
        *((SUCCEEDED, 0, 0, "FINISHED"), (FAILED, 1, 1, "FAILED"), (FAILED, 3, 3, "FAILED")),
        *((FAILED, -9, 137, "FAILED"), (FAILED, 143, 143, "STOPPED")),
        (STOPPED, None, 143, "STOPPED"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_waiting_exits_with_the_jobs_code(
    state: str,
    given: int | None,
    ended: int,
    word: str,
    as_json: bool,
    server: FakeRayJobsClient,
    sumgrad: Sumgrad,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "sumgrad.jobs.service.client.ray_api.RayJobsClient", lambda _: Ending(state, given)
    )
    done = sumgrad("submit", "digits", "--id", "new-1", "--wait", *(["--json"] if as_json else []))
    assert done.code == ended
    if as_json:
        result = {"run_id": "ab", "status": "FINISHED" if ended == 0 else "FAILED"}
        values = {"id": "new-1", "state": word, "ray_state": state, "exit_code": ended}
        assert done.json == values | {"result": result}
        assert "epoch 1\nbye\n" in done.err
    else:
        assert done.out.endswith("epoch 1\nbye\n")
        assert (f"job new-1 is {word}, exit code {ended}" in done.err) is (ended != 0)
        assert ("Resume it:  sumgrad resume new-1\n" in done.err) is (ended > 2)


def test_an_interrupt_leaves_the_job_running(
    server: FakeRayJobsClient, sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sumgrad.jobs.service.client.follow.follow", interrupted)
    monkeypatch.setattr(follow, "wait", interrupted)
    for command in (["logs", "-f", "digits"], ["wait", "digits"]):
        done = sumgrad(*command)
        assert done.code == 130
        assert "job digits-1" in error_line(done)
        assert "continues" in error_line(done)
        assert done.err.endswith(f": sumgrad {' '.join(command)}-1\n")
        elsewhere = sumgrad(*command, "--cluster", "http://other:1", "--json")
        error_line(elsewhere, as_json=True)
        assert elsewhere.err.endswith(f"{' '.join(command)}-1 --cluster http://other:1\n")
    assert not any(call.startswith("stop") for call in server.memory.calls)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_submission_suggests_a_status(
    server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    server.memory.on_submit = interrupted
    done = sumgrad("submit", "digits", "--id", "new-1", "-c", "http://h:1")
    assert done.code == 130
    assert error_line(done) == "error: interrupted"
    assert done.err.endswith("sumgrad status new-1 --cluster http://h:1\n")


def test_an_interrupt_is_reported_at_any_time(
    server: FakeRayJobsClient, sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "list_attempts", interrupted)
    for as_json in (False, True):
        done = sumgrad("status", "digits", *(["--json"] if as_json else []))
        assert (done.code, error_line(done, as_json=as_json)) == (130, "error: interrupted")


def test_status_prints_state_and_attempt(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    done = sumgrad("status", "digits")
    assert done.code == 0
    assert done.out.startswith("digits-1  PENDING  attempt 2\n")
    server.memory.logs["digits-1~2"] = "training started\n"
    assert sumgrad("status", "digits").out.startswith("digits-1  RUNNING  attempt 2\n")
    values = sumgrad("status", "mnist-1", "--json").json
    assert (values["job_id"], values["state"], values["exit_code"]) == ("mnist-1", "FINISHED", 0)
    assert values["ray_state"] == SUCCEEDED


def test_logs_print_one_attempt(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    server.memory.logs = {"digits-1": "first\n", "digits-1~2": "second\nno end"}
    assert sumgrad("logs", "digits").out == "second\nno end"
    assert sumgrad("logs", "digits", "--attempt", "1").out == "first\n"
    assert sumgrad("logs", "digits", "--json").json == {
        "id": "digits-1",
        "state": RUNNING,
        "ray_state": RUNNING,
        "exit_code": None,
        "log": "second\nno end",
    }
    over = sumgrad("logs", "mnist", "--json").json
    assert (over["state"], over["ray_state"], over["exit_code"]) == ("FINISHED", SUCCEEDED, 0)
    assert sumgrad("logs", "-f", "digits", "--attempt", "1").code == 143
    assert sumgrad("logs", "digits", "--attempt", "3").code == 2
    assert sumgrad("logs", "digits", "--attempt", "0").code == 2


def test_stop_suggests_how_to_resume(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    assert "Resume it:  sumgrad resume digits-1" in sumgrad("stop", "digits").out
    assert server.memory.calls[-1] == "stop digits-1~2"
    assert sumgrad("stop", "digits", "--json").json == {"id": "digits-1", "was_running": True}
    assert "has already ended (FINISHED)" in sumgrad("stop", "mnist").out
    assert sumgrad("stop", "mnist", "--json").json["was_running"] is False


@pytest.mark.parametrize(
    ("job", "state", "ended", "word"),
    [("mnist", SUCCEEDED, 0, "FINISHED"), ("bad", FAILED, 3, "FAILED")],
)
def test_wait_exits_with_the_jobs_code(
    job: str, state: str, ended: int, word: str, server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    done = sumgrad("wait", job)
    assert (done.code, done.out) == (ended, f"job {job}-1 is {word}\n")
    as_json = sumgrad("wait", job, "--json")
    assert as_json.code == ended
    values = {"id": f"{job}-1", "state": word, "ray_state": state, "exit_code": ended}
    assert as_json.json == values


def test_wait_exits_with_124_at_its_timeout(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    done = sumgrad("wait", "digits", "--timeout", "0")
    assert (done.code, done.out) == (124, "job digits-1 has not ended\n")
    as_json = sumgrad("wait", "digits", "--timeout", "0", "--json")
    assert (as_json.code, as_json.json["exit_code"]) == (124, None)
    assert as_json.json["state"] == RUNNING
    assert sumgrad("wait", "digits", "--timeout", "-1").code == 2
    assert sumgrad("wait", "digits", "--timeout", "x").code == 2


def test_waiting_survives_a_short_outage(
    server: FakeRayJobsClient, sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> Attempt:
        raise ServiceUnreachable("no cluster answers at http://head:8265")

    monkeypatch.setattr(server, "get_attempt", away)
    assert sumgrad("wait", "digits", "--timeout", "0.1").code == 124
    monkeypatch.setattr(follow, "RECONNECT_TIMEOUT_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert sumgrad("wait", "digits").code == 3


@pytest.mark.parametrize("command", [["logs", "-f"], ["wait"], ["submit", "--wait"]])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_restarted_cluster_has_lost_the_job(
    command: list[str],
    as_json: bool,
    server: FakeRayJobsClient,
    sumgrad: Sumgrad,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    which = ["digits", "--id", "new-1"] if command[0] == "submit" else ["digits-1"]
    job = which[-1]
    away = iter([True])

    def attempt_at(submission_id: str) -> Attempt:
        if "--wait" in command and f"tail_log {job}" not in server.memory.calls:
            return FakeRayJobsClient.get_attempt(server, submission_id)
        if next(away, False):
            raise ServiceUnreachable("no cluster answers at http://head:8265")
        raise JobNotFound("the cluster knows no such job")

    monkeypatch.setattr(server, "get_attempt", attempt_at)
    monkeypatch.setattr("time.sleep", lambda _: None)
    done = sumgrad(*command, *which, "-c", "http://h:1", *(["--json"] if as_json else []))
    away_line, error, hint = done.err.splitlines()[-3:]
    assert done.code == 3
    assert away_line.endswith("; trying again, and the job continues if its cluster does")
    assert error.startswith(f"error: http://h:1 no longer knows job {job}: its head was restarted")
    for verb in ("status", "resume"):
        assert f"'sumgrad {verb} {job} --cluster http://h:1'" in hint
    if as_json:
        assert (done.json["exit_code"], f"hint: {done.json['hint']}") == (3, hint)


def test_delete_prints_what_stays(server: FakeRayJobsClient, sumgrad: Sumgrad) -> None:
    assert sumgrad("delete", "digits").code == 2
    assert sumgrad("delete", "mnist", "--json").json == {"id": "mnist-1", "deleted": 1}
    deleted = sumgrad("delete", "bad")
    assert deleted.err == ""
    assert deleted.out.splitlines() == [
        "job bad-1 is deleted from the cluster",
        "What stays:  its folder $SUMGRAD_OUTPUT/bad-1 on the cluster's head",
        "The id 'bad-1' stays in use: give another job another --id",
    ]
    assert sorted(server.memory.attempts) == ["digits-1", "digits-1~2"]


# Runs of a folder and jobs of a cluster


RUN = "0123456789abcdef"


@pytest.fixture
def a_run() -> RunDirectory:
    record = replace(RECORD_OF_A_RUN, run_id=RUN)
    directory = RunDirectory.create(Path("runs") / RUN, record)
    Receipt(RUN, end=record.end).write(directory.path)
    return directory


def test_runs_lists_the_folder_and_jobs_the_cluster(
    a_run: RunDirectory,
    server: FakeRayJobsClient,
    sumgrad: Sumgrad,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [job["job_id"] for job in sumgrad("jobs", "--json").json] == [
        *("bad-1", "mnist-1", "digits-1"),
    ]
    assert "mnist-1" in sumgrad("jobs").out
    assert [each["run_id"] for each in sumgrad("runs", "--json").json] == [RUN]
    monkeypatch.delenv("SUMGRAD_CLUSTER")
    assert sumgrad("jobs").code == 2
    assert len(sumgrad("jobs", "--json", "--cluster", ADDRESS).json) == 3
    write_cluster_config(
        ClusterConfig(current="lab", clusters={"lab": Cluster(address=ADDRESS, name="lab")})
    )
    assert len(sumgrad("jobs", "--json").json) == 3
    assert sumgrad("jobs", "--cluster", "gone").code == 2


def test_sync_without_runs_is_complete(sumgrad: Sumgrad) -> None:
    done = sumgrad("sync", "--json").json
    assert done == {"is_complete": True, "lines": ["MLflow has everything"]}


def test_resume_prefers_a_run_in_the_folder(
    a_run: RunDirectory, server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    done = sumgrad("resume", RUN)
    assert done.code == 2, "its spec is invalid"
    assert "spec.yaml" in error_line(done)
    assert server.memory.calls == []


def test_resume_does_not_ask_the_cluster_for_a_run_that_is_ambiguous_or_damaged(
    server: FakeRayJobsClient, sumgrad: Sumgrad
) -> None:
    for run_id in ("bad-one", "bad-two"):
        record = replace(RECORD_OF_A_RUN, run_id=run_id)
        RunDirectory.create(Path("runs", run_id), record)
    assert "several runs in runs start with bad" in error_line(sumgrad("resume", "bad"))
    Path("runs", "bad-one", "run.json").write_text("")
    assert "run.json is damaged" in error_line(sumgrad("resume", "runs/bad-one"))


def test_resume_of_another_id_is_a_job_of_the_cluster(
    a_run: RunDirectory,
    server: FakeRayJobsClient,
    sumgrad: Sumgrad,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = sumgrad("resume", "bad", "--set", "cluster.workers=8")
    assert done.out == "job bad-1 was resumed\nFollow its log:  sumgrad logs -f bad-1\n"
    assert server.memory.sent[0].manifest["overrides"] == ["cluster.workers=8"]
    server.memory.attempts.pop("bad-1~2")
    assert sumgrad("resume", "bad-1", "--json").json == {
        "id": "bad-1",
        "submission_id": "bad-1~2",
    }
    assert "has not ended" in error_line(sumgrad("resume", "digits-1"))
    assert "has finished" in error_line(sumgrad("resume", "mnist-1"))
    monkeypatch.delenv("SUMGRAD_CLUSTER")
    assert "no run bad-10000 in runs" in error_line(sumgrad("resume", "bad-10000"))
    assert "has no job" in error_line(sumgrad("resume", RUN, "--cluster", ADDRESS))
