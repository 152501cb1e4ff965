"""docker-compose.yml in a real engine: build, start, jobs, crashes, a new token, and the end.

The tests build on each other, in this order. `make end-to-end` runs them and shows every command
with its output.
"""

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.compose import Lab, get, log, login, reason_to_skip, require

if not os.environ.get("SUMGRAD_END_TO_END"):
    pytest.skip(
        "builds and runs containers for minutes; start it with 'make end-to-end'",
        allow_module_level=True,
    )

#: The first build installs a gigabyte.
pytestmark = pytest.mark.timeout(1800)
WORKERS = 3
EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"
#: Long enough to kill a container and start it again while the job runs.
SECOND_JOB = """\
name: second
data:
  train: file:///data/rows.csv
  label: digit
  validation: 0.1
model:
  layers:
    - {units: 128, activation: relu}
    - {units: 10, activation: softmax}
optimizer: {eta: 0.2, batch_size: 96}
cluster:
  workers: {min: 2, max: 3}
  microbatch_size: 16                 # six microbatches a step: work for three
stop: {max_epochs: 1500, tolerance: 0}
"""
#: Kills one of Ray's daemons as a crash would, but not the container's first process.
KILL = """
import os, pathlib, sys
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    if (entry / "cmdline").read_text().split("\\0")[0].endswith("/" + sys.argv[1]):
        os.kill(int(entry.name), 9)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """All services; taken down even after a failure."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    lab = Lab(tmp_path_factory.mktemp("compose"))
    log(f"\nproject {lab.project}")
    lab.make_token()
    _write_data(lab.data)
    try:
        assert lab.compose("version").code == 0
        assert lab.compose("build", "head", seconds=1500).code == 0
        up = lab.compose("up", "--detach", "--scale", f"worker={WORKERS}", seconds=600)
        if up.code:
            lab.compose("logs", "--tail", "30")
        assert up.code == 0
        yield lab
    finally:
        lab.take_down()


def _write_data(folder: Path) -> None:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    folder.mkdir(exist_ok=True)
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["digit", *(f"pixel_{pixel // 8}_{pixel % 8}" for pixel in range(64))])
        rows.writerows(
            [int(digit), *map(int, row)] for digit, row in zip(digits, pixels, strict=True)
        )
    (folder / "second.yaml").write_text(SECOND_JOB)


def test_all_services_become_healthy(lab: Lab) -> None:
    lab.wait_until_healthy(WORKERS)
    lab.compose("ps")
    nodes = {node["ip"]: node["raylet"]["resourcesTotal"] for node in lab.nodes()}
    log(f"nodes: {nodes}")
    cpus = sorted(resources.get("CPU", 0.0) for resources in nodes.values())
    assert cpus == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("service", ["mlflow", "head", "worker"])
def test_containers_have_limits_and_no_rights(lab: Lab, service: str) -> None:
    for container in lab.inspect(service):
        limits: dict[str, Any] = container["HostConfig"]
        assert container["Config"]["User"] == ("mlflow" if service == "mlflow" else "sumgrad")
        assert limits["NanoCpus"] == 1_000_000_000
        assert limits["Memory"] > 0
        assert limits["PidsLimit"] > 0
        assert limits["ReadonlyRootfs"]
        assert limits["CapDrop"] == ["ALL"]
        assert limits["SecurityOpt"] == ["no-new-privileges:true"]
        assert limits["Init"]
        published = [one for ports in (limits["PortBindings"] or {}).values() for one in ports]
        assert {one["HostIp"] for one in published} == (
            set() if service == "worker" else {"127.0.0.1"}
        )
        assert lab.token not in str(container["Config"])


def test_ray_requires_the_token(lab: Lab) -> None:
    jobs = f"{lab.dashboard}/api/jobs/"
    answers = {
        "without a token": get(jobs)[0],
        "with another token": get(jobs, {"Authorization": "Bearer " + "0" * 64})[0],
        "with the token": get(jobs, {"Authorization": f"Bearer {lab.token}"})[0],
    }
    log(f"GET /api/jobs/: {answers}")
    assert list(answers.values()) == [401, 403, 200]
    refused = lab.sumgrad("submit", "digits", token="0" * 64)
    assert refused.code not in (0, 1)
    assert "token" in refused.out


def test_mlflow_requires_the_same_token(lab: Lab) -> None:
    page, artifacts = f"{lab.mlflow}/", f"{lab.mlflow}/api/2.0/mlflow-artifacts/artifacts"
    for address in (f"{lab.mlflow}{EXPERIMENT}", page, artifacts):
        answers = {
            "without a login": get(address)[0],
            "with another token": get(address, login("0" * 64))[0],
            "with MLflow's old default": get(address, login("password1234", "admin"))[0],
            "with the token": get(address, login(lab.token))[0],
        }
        log(f"GET {address.removeprefix(lab.mlflow)}: {answers}")
        assert list(answers.values()) == [401, 401, 401, 200]
    assert get(f"{lab.mlflow}/health")[0] == 200


def test_mlflow_answers_only_under_its_own_names(lab: Lab) -> None:
    experiment, headers = f"{lab.mlflow}{EXPERIMENT}", login(lab.token)
    port = lab.mlflow_port
    names = (f"127.0.0.1:{port}", f"localhost:{port}", "mlflow:5000", "other.example")
    answers = {name: get(experiment, {"Host": name, **headers})[0] for name in names}
    log(f"MLflow by the name of: {answers}")
    assert list(answers.values()) == [200, 200, 200, 403]


def test_a_job_from_the_host_has_the_weights_of_an_inline_run(lab: Lab) -> None:
    submitted = lab.sumgrad("submit", "digits", "--wait", "--json", seconds=600)
    assert submitted.code == 0
    result = submitted.result["result"]
    inline = lab.inside(
        "train", "digits", "--set", "cluster.address=inline", "--set", "output=/tmp/runs", "--json"
    )
    assert inline.code == 0
    assert inline.result["weights_sha256"] == result["weights_sha256"]

    status = lab.sumgrad("status", submitted.result["id"], "--json").result
    assert status["state"] == "FINISHED"
    assert status["run_id"] == result["run_id"]
    assert status["differences"] == []
    # MLflow serves the model to clients that cannot see the cluster's disk.
    run = lab.run_of(result["run_id"])
    assert run.outputs is not None
    model = run.outputs.model_outputs[0].model_id
    pages = f"{lab.mlflow}/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/directories"
    files = [file["path"] for file in json.loads(get(pages, login(lab.token))[1])["files"]]
    log(f"MLflow has {run.info.artifact_uri} and {model}: {files}")
    assert str(run.info.artifact_uri).startswith("mlflow-artifacts:/")
    assert "MLmodel" in files
    evaluated = lab.sumgrad("evaluate", result["run_id"], str(lab.data / "rows.csv"))
    assert evaluated.code == 0
    inside = lab.inside("evaluate", result["run_id"], "/data/rows.csv")
    assert inside.code == 0
    doctor = lab.sumgrad("doctor", "--json")
    checks = json.loads(doctor.out.splitlines()[-1])
    statuses = {check["name"]: check["status"] for check in checks}
    names = ("token", "login", "MLflow from the head")
    assert [statuses[name] for name in names] == ["ok", "ok", "ok"]


def test_a_job_from_a_container_survives_a_killed_worker_container(lab: Lab) -> None:
    submitted = lab.inside("submit", "second.yaml", "--json")
    assert submitted.code == 0
    job_id = submitted.result["id"]
    victim = lab.containers("worker")[0]
    with lab.following(job_id) as output:
        require(lambda: bool(re.search(r"^epoch \d\d+/", output.text, re.MULTILINE)), 240)
        lab.docker("kill", victim)
        require(lambda: "starting a replacement" in output.text, 120)
        lab.docker("start", victim)
        assert output.wait(900) == 0
    text = lab.sumgrad("logs", job_id).out
    results = re.findall(r"sha256\s+([0-9a-f]{64})", text)
    assert lab.sumgrad("wait", job_id).code == 0

    inline = lab.inside(
        *("train", "second.yaml", "--set", "data.train=/data/rows.csv"),
        *("--set", "cluster.address=inline", "--set", "output=/tmp/runs", "--json"),
        seconds=900,
    )
    assert inline.code == 0
    assert results == [inline.result["weights_sha256"]]


@pytest.mark.parametrize(("service", "daemon"), [("worker", "raylet"), ("head", "gcs_server")])
def test_crashed_daemons_are_started_again(lab: Lab, service: str, daemon: str) -> None:
    lab.wait_until_healthy(WORKERS)
    victim = lab.containers(service)[-1]
    before = {job["job_id"] for job in lab.jobs()}
    lab.docker("exec", victim, "python", "-c", KILL, daemon)
    require(lambda: sum(one["RestartCount"] for one in lab.inspect(service)) > 0, 120)
    require(lambda: len(lab.nodes()) == 1 + WORKERS, 180)
    lab.wait_until_healthy(WORKERS)
    lab.docker("inspect", "--format", "{{.RestartCount}} {{.State.Health.Status}}", victim)
    assert {job["job_id"] for job in lab.jobs()} == before != set()


def test_a_new_token_replaces_the_first(lab: Lab) -> None:
    before, runs = lab.token, {job["run_id"] for job in lab.jobs()}
    lab.make_token()
    assert lab.token != before
    again = ("up", "--detach", "--force-recreate", "--scale", f"worker={WORKERS}")
    assert lab.compose(*again, seconds=600).code == 0
    lab.wait_until_healthy(WORKERS)
    experiment, jobs = f"{lab.mlflow}{EXPERIMENT}", f"{lab.dashboard}/api/jobs/"
    answers = {
        "MLflow with the first": get(experiment, login(before))[0],
        "MLflow with the new one": get(experiment, login(lab.token))[0],
        "Ray with the first": get(jobs, {"Authorization": f"Bearer {before}"})[0],
        "Ray with the new one": get(jobs, {"Authorization": f"Bearer {lab.token}"})[0],
    }
    log(f"after the change of the token: {answers}")
    assert list(answers.values()) == [401, 200, 403, 200]
    assert {job["run_id"] for job in lab.jobs()} == runs


def test_nothing_is_left(lab: Lab) -> None:
    lab.take_down()
    assert lab.leftovers() == []
