"""Commands about clusters and their jobs: what they print, and what they end with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.config.clusters import (
    Cluster,
    ClusterConfig,
    read_cluster_config,
    write_cluster_config,
)
from sumgrad.jobs.config.directories import local_cluster_directory
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.service import versions
from sumgrad.jobs.service.client import doctor, follow
from sumgrad.jobs.service.client.doctor import Check
from sumgrad.jobs.service.local import cluster
from sumgrad.jobs.service.local.cluster import LocalCluster
from sumgrad.jobs.service.local.processes import ServerProcess, start_time
from sumgrad.jobs.service.manifest import RESULT_PREFIX
from sumgrad.jobs.service.states import FAILED, RUNNING, STOPPED, SUCCEEDED, Attempt
from sumgrad.jobs.support.source_digest import source_digest
from sumgrad.jobs.tracking.outbox import Receipt
from tests.jobs.runs.records import RECORD_OF_A_RUN
from tests.jobs.service.stand_ins import ADDRESS, FakeRayJobsClient, attempt

DIGEST = source_digest()
COMMANDS = (
    *(["submit"], ["status"], ["logs"], ["stop"], ["wait"], ["delete"], ["doctor"], ["jobs"]),
    *(["resume"], ["cluster"], ["cluster", "add"], ["cluster", "use"]),
    *(["cluster", "remove"], ["cluster", "list"], ["cluster", "up"], ["cluster", "status"]),
    ["cluster", "down"],
)


@dataclass(frozen=True)
class Said:
    """What a command said, and ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only thing on stdout."""
        (line,) = self.out.strip().splitlines()
        return json.loads(line)


Say = Callable[..., Said]


@pytest.fixture
def sumgrad(capsys: pytest.CaptureFixture[str]) -> Say:
    def say(*arguments: str) -> Said:
        capsys.readouterr()
        ended = run(list(arguments))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert "internal error" not in said.err
        return Said(ended, said.out, said.err)

    return say


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeRayJobsClient:
    """The job server of every cluster that is asked for."""
    found = FakeRayJobsClient(
        attempt("digits-1", STOPPED, exit_code=143, start_time=1.0),
        attempt("digits-1~2", RUNNING, number=2, start_time=2.0),
        attempt("mnist-1", SUCCEEDED, start_time=3.0),
        attempt("bad-1", FAILED, exit_code=3, start_time=4.0),
    )

    def connect(cluster: Cluster) -> FakeRayJobsClient:
        found.cluster = cluster
        return found

    monkeypatch.setattr("sumgrad.jobs.service.client.ray_api.RayJobsClient", connect)
    monkeypatch.setattr(versions, "source_digest", lambda: DIGEST)
    monkeypatch.setenv("SUMGRAD_CLUSTER", ADDRESS)
    return found


def one_line(said: Said, *, as_json: bool = False) -> str:
    """The error, which is one line, and a hint, which may be another; for a script on stdout too.

    Args:
        said: By a command.
        as_json: Whether it was to say it as JSON.
    """
    error, *hint = said.err.strip().splitlines()
    assert error.startswith("error: ")
    assert len(hint) <= 1
    assert all(line.startswith("hint: ") for line in hint)
    if as_json:
        assert said.json == {
            "error": error.removeprefix("error: "),
            "hint": hint[0].removeprefix("hint: ") if hint else None,
            "exit_code": said.code,
        }
    else:
        assert said.out == ""
    return error


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str], sumgrad: Say) -> None:
    said = sumgrad(*command, "--help")
    assert said.code == 0
    assert f"Usage: sumgrad {' '.join(command)}" in said.out
    assert ("--json" in said.out) is (command != ["cluster"])
    assert said.err == ""


NEED_A_CLUSTER = (
    *(["submit", "digits"], ["status", "x-1"], ["logs", "x-1"], ["logs", "-f", "x-1"]),
    *(["stop", "x-1"], ["wait", "x-1"], ["delete", "x-1"], ["doctor"]),
    ["submit", "digits", "--dry-run"],
)


@pytest.mark.parametrize("command", NEED_A_CLUSTER, ids=" ".join)
@pytest.mark.parametrize("as_json", [False, True])
def test_without_a_cluster(command: list[str], as_json: bool, sumgrad: Say) -> None:
    said = sumgrad(*command, *(["--json"] if as_json else []))
    assert said.code == 2
    assert "no cluster is selected" in one_line(said, as_json=as_json)
    assert "sumgrad cluster up" in said.err


@pytest.mark.parametrize("command", NEED_A_CLUSTER, ids=" ".join)
@pytest.mark.parametrize("where", ["nobody", "ray://head:1", "http://me:s3cr3t@head", "http://[x"])
def test_with_a_cluster_that_is_none(command: list[str], where: str, sumgrad: Say) -> None:
    said = sumgrad(*command, "--cluster", where)
    assert said.code == 2
    assert "s3cr3t" not in one_line(said) + said.err


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "command", [each for each in NEED_A_CLUSTER if each[-1] not in ("doctor", "--dry-run")]
)
def test_with_a_cluster_that_is_away(
    command: list[str], as_json: bool, server: FakeRayJobsClient, sumgrad: Say
) -> None:
    server.memory.is_unreachable = True
    said = sumgrad(*command, *(["--json"] if as_json else []))
    assert said.code == 3
    assert "no cluster answers" in one_line(said, as_json=as_json)


@pytest.mark.parametrize("command", ["status", "logs", "stop", "wait", "delete", "resume"])
def test_with_a_job_that_is_not_there(
    command: str, server: FakeRayJobsClient, sumgrad: Say
) -> None:
    said = sumgrad(command, "gone-1")
    assert said.code == 2
    assert "has no job 'gone-1'" in one_line(said)
    assert sumgrad(command).code == 2
    assert sumgrad(command, "digits-1", "--nonsense").code == 2


# submit


def test_a_job_is_handed_in(server: FakeRayJobsClient, sumgrad: Say) -> None:
    said = sumgrad("submit", "digits", "--id", "new-1", "--set", "seed=5", "-c", "http://h:1")
    assert said.code == 0
    assert said.out.splitlines() == [
        "job new-1 submitted: http://h:1",
        "Follow its log:  sumgrad logs -f new-1 --cluster http://h:1",
        "See its state:   sumgrad status new-1 --cluster http://h:1",
        "Stop it:         sumgrad stop new-1 --cluster http://h:1",
    ]
    assert yaml.safe_load(server.memory.sent[0].manifest["spec_yaml"])["seed"] == 5


def test_a_job_is_handed_in_once(server: FakeRayJobsClient, sumgrad: Say) -> None:
    new = sumgrad("submit", "digits", "--id", "new-1", "--json")
    assert (new.code, new.json) == (
        0,
        {"id": "new-1", "submission_id": "new-1", "is_new": True, "cluster": ADDRESS},
    )
    assert sumgrad("submit", "digits", "--id", "new-1", "--json").json["is_new"] is False
    assert "was submitted before" in sumgrad("submit", "digits", "--id", "new-1").out
    other = sumgrad("submit", "digits", "--id", "new-1", "--set", "seed=5")
    assert (other.code, len(server.memory.sent)) == (2, 1)
    assert "has another job with the id" in one_line(other)


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
def test_a_job_that_cannot_be_handed_in(
    arguments: list[str], server: FakeRayJobsClient, sumgrad: Say
) -> None:
    said = sumgrad("submit", *arguments)
    assert said.code == 2
    assert "s3cr3t" not in one_line(said) + said.err
    assert server.memory.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "digits", "--dry-run", "--wait"),
        ("cluster", "use", "lab", "--none"),
        ("cluster", "use"),
    ],
)
def test_options_that_contradict_each_other(
    arguments: tuple[str, ...], server: FakeRayJobsClient, sumgrad: Say
) -> None:
    said = sumgrad(*arguments)
    assert said.code == 2
    assert ("--wait" if arguments[0] == "submit" else "--none") in one_line(said)
    assert server.memory.calls == []


@pytest.mark.parametrize("command", ["status", "logs", "stop", "wait", "delete"])
@pytest.mark.parametrize(
    "job_id", ["", " ", "../../etc", "a/b", "ü", "x" * 5000, "a\nb", "\x1b[2J", "%00", "*", "di"]
)
def test_an_id_that_is_none(
    command: str, job_id: str, server: FakeRayJobsClient, sumgrad: Say
) -> None:
    said = sumgrad(command, "--", job_id)
    assert said.code == 2
    assert len(one_line(said)) < 1100
    assert said.err.replace("\n", "").isprintable()
    assert server.memory.calls == ["list_attempts"]


def test_a_dry_run_asks_nobody(server: FakeRayJobsClient, sumgrad: Say) -> None:
    said = sumgrad("submit", "digits", "--id", "new-1", "--dry-run")
    assert said.code == 0
    assert said.out.startswith(f"would send to {ADDRESS}:\n  id         new-1\n")
    as_json = sumgrad("submit", "digits", "--id", "new-1", "--dry-run", "--json").json
    assert (as_json["id"], as_json["cluster"]) == ("new-1", ADDRESS)
    assert server.memory.calls == []


class RunEnd(FakeRayJobsClient):
    """A cluster on which a job ends as soon as it is handed in."""

    def __init__(self, state: str, exit_code: int | None) -> None:
        super().__init__()
        self._end = (state, exit_code)

    def get_attempt(self, submission_id: str) -> Attempt:
        found = super().get_attempt(submission_id)
        status = "FINISHED" if self._end[0] == SUCCEEDED else "FAILED"
        result = f'{RESULT_PREFIX}{{"run_id": "ab", "status": "{status}"}}'
        self.memory.logs[submission_id] = f"epoch 1\n{result}\nbye\n"
        return replace(found, state=self._end[0], exit_code=self._end[1])


@pytest.mark.parametrize(
    ("state", "given", "ended", "word"),
    [
        *((SUCCEEDED, 0, 0, "FINISHED"), (FAILED, 1, 1, "FAILED"), (FAILED, 3, 3, "FAILED")),
        *((FAILED, -9, 137, "FAILED"), (FAILED, 143, 143, "STOPPED")),
        (STOPPED, None, 143, "STOPPED"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_who_waits_ends_as_the_job_does(
    state: str,
    given: int | None,
    ended: int,
    word: str,
    as_json: bool,
    server: FakeRayJobsClient,
    sumgrad: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "sumgrad.jobs.service.client.ray_api.RayJobsClient", lambda _: RunEnd(state, given)
    )
    said = sumgrad("submit", "digits", "--id", "new-1", "--wait", *(["--json"] if as_json else []))
    assert said.code == ended
    if as_json:
        result = {"run_id": "ab", "status": "FINISHED" if ended == 0 else "FAILED"}
        facts = {"id": "new-1", "state": word, "ray_state": state, "exit_code": ended}
        assert said.json == facts | {"result": result}
        assert "epoch 1\nbye\n" in said.err
    else:
        assert said.out.endswith("epoch 1\nbye\n")
        assert (f"job new-1 is {word}, exit code {ended}" in said.err) is (ended != 0)
        assert ("Resume it:  sumgrad resume new-1\n" in said.err) is (ended > 2)


def test_who_lets_go_of_a_job_does_not_end_it(
    server: FakeRayJobsClient, sumgrad: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sumgrad.jobs.service.client.follow.follow", interrupted)
    monkeypatch.setattr(follow, "wait", interrupted)
    for command in (["logs", "-f", "digits"], ["wait", "digits"]):
        said = sumgrad(*command)
        assert said.code == 130
        assert "job digits-1" in one_line(said)
        assert "continues" in one_line(said)
        assert said.err.endswith(f": sumgrad {' '.join(command)}-1\n"), "what is typed to go on"
        elsewhere = sumgrad(*command, "--cluster", "http://other:1", "--json")
        one_line(elsewhere, as_json=True)
        assert elsewhere.err.endswith(f"{' '.join(command)}-1 --cluster http://other:1\n")
    assert not any(call.startswith("stop") for call in server.memory.calls)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_who_is_interrupted_while_a_job_is_sent_is_told_how_to_find_out(
    server: FakeRayJobsClient, sumgrad: Say
) -> None:
    server.memory.on_submit = interrupted
    said = sumgrad("submit", "digits", "--id", "new-1", "-c", "http://h:1")
    assert said.code == 130
    assert one_line(said) == "error: interrupted"
    assert said.err.endswith("sumgrad status new-1 --cluster http://h:1\n")


def test_an_interrupt_is_told_wherever_it_comes(
    server: FakeRayJobsClient, sumgrad: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "list_attempts", interrupted)
    for as_json in (False, True):
        said = sumgrad("status", "digits", *(["--json"] if as_json else []))
        assert (said.code, one_line(said, as_json=as_json)) == (130, "error: interrupted")


# The others


def test_a_status(server: FakeRayJobsClient, sumgrad: Say) -> None:
    said = sumgrad("status", "digits")
    assert said.code == 0
    assert said.out.startswith("digits-1  PENDING  attempt 2\n")
    server.memory.logs["digits-1~2"] = "training started\n"
    assert sumgrad("status", "digits").out.startswith("digits-1  RUNNING  attempt 2\n")
    facts = sumgrad("status", "mnist-1", "--json").json
    assert (facts["job_id"], facts["state"], facts["exit_code"]) == ("mnist-1", "FINISHED", 0)
    assert facts["ray_state"] == SUCCEEDED


def test_a_log(server: FakeRayJobsClient, sumgrad: Say) -> None:
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


def test_a_job_is_stopped(server: FakeRayJobsClient, sumgrad: Say) -> None:
    assert "Resume it:  sumgrad resume digits-1" in sumgrad("stop", "digits").out
    assert server.memory.calls[-1] == "stop digits-1~2"
    assert sumgrad("stop", "digits", "--json").json == {"id": "digits-1", "was_running": True}
    assert "has already ended (FINISHED)" in sumgrad("stop", "mnist").out
    assert sumgrad("stop", "mnist", "--json").json["was_running"] is False


@pytest.mark.parametrize(
    ("job", "state", "ended", "word"),
    [("mnist", SUCCEEDED, 0, "FINISHED"), ("bad", FAILED, 3, "FAILED")],
)
def test_a_job_is_waited_for(
    job: str, state: str, ended: int, word: str, server: FakeRayJobsClient, sumgrad: Say
) -> None:
    said = sumgrad("wait", job)
    assert (said.code, said.out) == (ended, f"job {job}-1 is {word}\n")
    as_json = sumgrad("wait", job, "--json")
    assert as_json.code == ended
    facts = {"id": f"{job}-1", "state": word, "ray_state": state, "exit_code": ended}
    assert as_json.json == facts


def test_a_job_is_not_waited_for_longer_than_said(server: FakeRayJobsClient, sumgrad: Say) -> None:
    said = sumgrad("wait", "digits", "--timeout", "0")
    assert (said.code, said.out) == (124, "job digits-1 is still running\n")
    as_json = sumgrad("wait", "digits", "--timeout", "0", "--json")
    assert (as_json.code, as_json.json["exit_code"]) == (124, None)
    assert as_json.json["state"] == RUNNING
    assert sumgrad("wait", "digits", "--timeout", "-1").code == 2
    assert sumgrad("wait", "digits", "--timeout", "x").code == 2


def test_a_cluster_that_goes_away_while_it_is_waited_for(
    server: FakeRayJobsClient, sumgrad: Say, monkeypatch: pytest.MonkeyPatch
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
def test_a_cluster_that_comes_back_as_a_new_one(
    command: list[str],
    as_json: bool,
    server: FakeRayJobsClient,
    sumgrad: Say,
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
    said = sumgrad(*command, *which, "-c", "http://h:1", *(["--json"] if as_json else []))
    away_line, error, hint = said.err.splitlines()[-3:]
    assert said.code == 3
    assert away_line.endswith("; trying again, and the job continues if its cluster does")
    assert error.startswith(f"error: http://h:1 no longer knows job {job}: its head was restarted")
    for verb in ("status", "resume"):
        assert f"'sumgrad {verb} {job} --cluster http://h:1'" in hint
    if as_json:
        assert (said.json["exit_code"], f"hint: {said.json['hint']}") == (3, hint)


def test_a_job_is_forgotten(server: FakeRayJobsClient, sumgrad: Say) -> None:
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


@pytest.mark.parametrize(("status", "ended"), [("ok", 0), ("warn", 0), ("FAIL", 3)])
def test_a_doctors_findings(
    status: Any, ended: int, sumgrad: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Cluster, list[str]]] = []

    def run_checks(cluster: Cluster, data: list[str]) -> list[Check]:
        asked.append((cluster, data))
        return [Check("resources", status, "8 CPUs", "add more")]

    monkeypatch.setattr(doctor, "run_checks", run_checks)
    said = sumgrad("doctor", "-c", "h:1", "--data", "/a", "--data", "/b")
    assert said.code == ended
    assert asked == [(Cluster("http://h:1"), ["/a", "/b"])]
    assert "→ add more" in said.out
    as_json = sumgrad("doctor", "-c", "h:1", "--json")
    assert as_json.code == ended
    assert as_json.json == [
        {"name": "resources", "status": status, "message": "8 CPUs", "hint": "add more"}
    ]


# A folder's runs, or a cluster's jobs

RUN = "0123456789abcdef"


@pytest.fixture
def a_run() -> RunDirectory:
    record = replace(RECORD_OF_A_RUN, run_id=RUN)
    directory = RunDirectory.create(Path("runs") / RUN, record, "name: x\n")
    Receipt(RUN, end=record.end).write(directory.path)
    return directory


def test_runs_are_of_the_folder_and_jobs_of_the_cluster(
    a_run: RunDirectory, server: FakeRayJobsClient, sumgrad: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [job["job_id"] for job in sumgrad("jobs", "--json").json] == [
        *("bad-1", "mnist-1", "digits-1"),
    ]
    assert "mnist-1" in sumgrad("jobs").out
    assert [each["run_id"] for each in sumgrad("runs", "--json").json] == [RUN]
    monkeypatch.delenv("SUMGRAD_CLUSTER")
    assert sumgrad("jobs").code == 2
    assert len(sumgrad("jobs", "--json", "--cluster", ADDRESS).json) == 3
    write_cluster_config(ClusterConfig("lab", {"lab": Cluster(ADDRESS, "lab")}))
    assert len(sumgrad("jobs", "--json").json) == 3
    assert sumgrad("jobs", "--cluster", "gone").code == 2


def test_there_may_be_nothing_to_tell_mlflow(sumgrad: Say) -> None:
    said = sumgrad("sync", "--json").json
    assert said == {"is_complete": True, "lines": ["MLflow knows everything"]}


def test_resuming_is_of_the_folders_run_if_there_is_one(
    a_run: RunDirectory, server: FakeRayJobsClient, sumgrad: Say
) -> None:
    said = sumgrad("resume", RUN)
    assert said.code == 2, "its spec is none"
    assert "spec.yaml" in one_line(said)
    assert server.memory.calls == []


def test_resuming_is_of_the_clusters_job_otherwise(
    a_run: RunDirectory, server: FakeRayJobsClient, sumgrad: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = sumgrad("resume", "bad", "--set", "cluster.workers=8")
    assert said.out == "job bad-1 was resumed\nFollow its log:  sumgrad logs -f bad-1\n"
    assert server.memory.sent[0].manifest["overrides"] == ["cluster.workers=8"]
    server.memory.attempts.pop("bad-1~2")
    assert sumgrad("resume", "bad-1", "--json").json == {
        "id": "bad-1",
        "submission_id": "bad-1~2",
    }
    assert "has not ended" in one_line(sumgrad("resume", "digits-1"))
    assert "has finished" in one_line(sumgrad("resume", "mnist-1"))
    monkeypatch.delenv("SUMGRAD_CLUSTER")
    assert "no run bad-10000 in runs" in one_line(sumgrad("resume", "bad-10000"))
    assert "has no job" in one_line(sumgrad("resume", RUN, "--cluster", ADDRESS))


# sumgrad cluster


def test_clusters_get_names(sumgrad: Say, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cr3t")
    token.chmod(0o600)
    assert sumgrad("cluster", "list", "--json").json == []
    assert sumgrad("cluster", "list").out.startswith("no clusters yet")
    added = sumgrad(
        *("cluster", "add", "lab", "head:8265", "--tracking-uri", "http://mlflow:5000"),
        *("--token-file", str(token), "--tracking-token-file", str(token)),
    )
    assert added.code == 0
    assert added.out.startswith("lab is http://head:8265, in ")
    assert sumgrad("cluster", "add", "home", "https://home").code == 0
    assert "default cluster is lab" in sumgrad("cluster", "use", "lab").out
    assert sumgrad("cluster", "list").out.splitlines() == [
        "  home             https://home",
        "* lab              http://head:8265  http://mlflow:5000",
    ]
    lab = sumgrad("cluster", "list", "--json").json
    assert next(each for each in lab if each["name"] == "lab") == {
        "name": "lab",
        "address": "http://head:8265",
        "tracking_uri": "http://mlflow:5000",
        "token_file": str(token),
        "tracking_token_file": str(token),
        "is_current": True,
    }
    assert sumgrad("cluster", "use", "--none").code == 0
    assert read_cluster_config().current is None
    home = {"name": "home", "address": "https://home", "tracking_uri": None, "is_current": False}
    home |= {"token_file": None, "tracking_token_file": None}
    assert sumgrad("cluster", "add", "home", "https://home", "--json").json == home
    assert sumgrad("cluster", "use", "home", "--json").json == home | {"is_current": True}
    assert sumgrad("cluster", "add", "gone", "h:1").code == 0
    removed = sumgrad("cluster", "remove", "gone", "--json").json
    assert removed == {"name": "gone", "current": "home"}
    assert sumgrad("cluster", "use", "--none", "--json").json == {"current": None}
    assert sumgrad("cluster", "remove", "lab").out == "lab was removed\n"
    assert sorted(read_cluster_config().clusters) == ["home"]


URIS = ("http://me:s3cr3t@h:2", "http://me@h:2", "h:2", "http://[h")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["use", "gone"], ["remove", "gone"], ["add", "a b", "h:1"], ["add", "x", "ray://h:1"]),
        *(["add", "x", "http://me:s3cr3t@h:1"], ["add", "x"], ["up", "--port", "0"], ["nothing"]),
        *(["add", "x", "h:1", "--token-file", "gone"], ["up", "--cpus", "0"]),
        ["add", "x", "h:1", "--tracking-token-file", "/dev/null"],
        ["add", "x", "h:1", "--tracking-uri", "sqlite:///x", "--tracking-token-file", "/dev/null"],
        *(["add", "x", "h:1", "--tracking-token-file", "t", "--tracking-uri", uri] for uri in URIS),
    ],
)
def test_a_name_that_cannot_be_given(arguments: list[str], sumgrad: Say) -> None:
    said = sumgrad("cluster", *arguments)
    assert said.code == 2
    assert "s3cr3t" not in one_line(said) + said.err
    assert read_cluster_config() == ClusterConfig(None, {})


def test_a_cluster_on_this_machine(sumgrad: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = ServerProcess(2**22 + 1, 1)
    there = LocalCluster("http://h:1", "http://h:2", "/t", dead, dead)
    monkeypatch.setattr(cluster, "up", lambda **_: (there, False))
    said = sumgrad("cluster", "up")
    assert said.code == 0
    assert "It was already running." in said.out
    assert "sumgrad cluster down" in said.out
    for _ in range(2):
        down = sumgrad("cluster", "down")
        assert (down.code, down.out) == (0, "no local cluster is running\n")
    gone = {"was_up": False, "folder": str(local_cluster_directory())}
    assert sumgrad("cluster", "down", "--json").json == gone
    token = str(local_cluster_directory() / "token")
    assert sumgrad("cluster", "up", "--json").json == {
        "is_new": False,
        "address": "http://h:1",
        "tracking_uri": "http://h:2",
        "token_file": token,
    }
    status = sumgrad("cluster", "status")
    assert (status.code, status.err) == (3, "")
    assert "sumgrad cluster up" in status.out
    as_json = sumgrad("cluster", "status", "--json")
    assert as_json.code == 3
    nothing = dict.fromkeys(("address", "tracking_uri", "token_file", "problem"))
    assert as_json.json == {"is_up": False, **nothing}
    monkeypatch.setattr(cluster, "running", lambda: there)
    status = sumgrad("cluster", "status")
    assert "dead" in status.out
    assert "the user 'sumgrad', with the token as the password" in status.out
    facts = sumgrad("cluster", "status", "--json").json
    assert (facts["address"], facts["tracking_uri"]) == ("http://h:1", "http://h:2")
    assert facts["token_file"] in status.out


def test_a_cluster_whose_token_is_lost(sumgrad: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ServerProcess(os.getpid(), start_time(os.getpid()) or 0)
    there = LocalCluster("http://h:1", "http://h:2", "/t", mine, mine)
    monkeypatch.setattr(cluster, "running", lambda: there)
    token = local_cluster_directory() / "token"
    lost = sumgrad("cluster", "status")
    assert lost.code == 3
    assert f"problem  {token} (token_file of cluster 'local') cannot be read" in lost.out
    assert f"→ 'sumgrad cluster down', 'rm -f {token}' and 'sumgrad cluster up'" in lost.out
    as_json = sumgrad("cluster", "status", "--json")
    assert (as_json.code, as_json.json["is_up"]) == (3, True)
    assert "cannot be read" in as_json.json["problem"]
    token.parent.mkdir(parents=True)
    token.write_text("s3cr3t")
    token.chmod(0o600)
    found = sumgrad("cluster", "status")
    assert (found.code, "problem" in found.out) == (0, False)
    assert sumgrad("cluster", "status", "--json").json["problem"] is None


def test_options_that_are_not_said_are_not_wanted(
    sumgrad: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[dict[str, int | None]] = []

    def up(**options: int | None) -> None:
        wanted.append(options)
        raise ServiceUnreachable("no room")

    monkeypatch.setattr(cluster, "up", up)
    sumgrad("cluster", "up")
    sumgrad("cluster", "up", "--port", "8265")
    nothing = {"cpus": None, "port": None, "mlflow_port": None}
    assert wanted == [nothing, {**nothing, "port": 8265}]


def test_an_mlflow_token_without_a_server_is_refused(sumgrad: Say, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cr3t")
    (tmp_path / "token").chmod(0o600)
    given = ("--tracking-token-file", str(tmp_path / "token"))
    said = sumgrad("cluster", "add", "lab", "h:1", *given)
    assert (said.code, "needs a tracking_uri" in said.err) == (2, True)
    missing = ("--tracking-uri", "http://h:2", "--tracking-token-file", "gone")
    said = sumgrad("cluster", "add", "lab", "h:1", *missing)
    assert (said.code, "gone (--tracking-token-file) cannot be read" in said.err) == (2, True)
    assert read_cluster_config() == ClusterConfig(None, {})


def test_a_cluster_that_does_not_start(sumgrad: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ServiceUnreachable("ray did not start: no room", hint="/the/log")

    monkeypatch.setattr(cluster, "up", fail)
    said = sumgrad("cluster", "up")
    assert said.code == 3
    assert said.err == "error: ray did not start: no room\nhint: /the/log\n"


# Answers in a blink

HEAVY = ("ray", "mlflow", "numpy", "pyarrow", "pandas", "yaml", "sklearn")


@pytest.mark.parametrize(
    "program",
    [
        "import sumgrad.jobs.cli.jobs, sumgrad.jobs.cli.cluster",
        "from sumgrad.jobs.cli.app import run; run(['--help'])",
        *(
            f"from sumgrad.jobs.cli.app import run; run(['{name}', '--help'])"
            for name in ("submit", "cluster", "doctor", "logs")
        ),
    ],
)
def test_help_needs_nothing_heavy(program: str) -> None:
    told = f"import sys; {program}; print('loaded:', *(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", told],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip().splitlines()[-1] == "loaded:"
