"""``sumgrad doctor``: what stands between a job and a cluster, in one table."""

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sumgrad.cluster.temporary import temporary_directory
from sumgrad.jobs.config.clusters import TOKEN_PATH, Cluster
from sumgrad.jobs.config.tokens import lost_token_hint, read_token
from sumgrad.jobs.config.tracking_uri import is_server
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.data_paths import FILE_SCHEME
from sumgrad.jobs.service.client.preflight import ask, cluster_versions
from sumgrad.jobs.service.client.ray_api import RayJobsClient, doctor_hint
from sumgrad.jobs.service.manifest import PYTHON
from sumgrad.jobs.service.mlflow_check import mlflow_problem, requires_login
from sumgrad.jobs.service.versions import INSTALL_HINT, Versions
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.source_digest import copy_source

#: Clocks that differ by more make curves and signs of life hard to read, in seconds.
MAX_CLOCK_SKEW_S = 5.0
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        what: What was looked at.
        status: ``ok``, ``warn`` for what works but should not stay so, ``FAIL``.
        text: What was found.
        hint: What to do about it.
    """

    what: str
    status: Literal["ok", "warn", "FAIL"]
    text: str
    hint: str = ""


def run_checks(cluster: Cluster, data: Sequence[str] = ()) -> list[Check]:
    """Look at everything that a job needs; what builds on a failure is left out.

    Args:
        cluster: Which.
        data: Paths that the cluster's machines should be able to read.
    """
    checks = _mlflow_here(cluster)
    try:
        server = RayJobsClient(cluster)
        ray_version = server.ray_version()
        checks = [*_connection(cluster, ray_version), *checks]
        versions = cluster_versions(server)
        checks += _versions(Versions.here(), versions)
        if "none" in versions.libraries.values():
            return checks
        asked = time.time()
        facts = _probe(server, versions, [path.removeprefix(FILE_SCHEME) for path in data])
        return checks + _cluster_findings(facts, asked, data)
    except ClusterConfigError as error:
        file = cluster.token_file or os.environ.get(TOKEN_PATH)
        hint = error.hint or _about_token(Path(file) if file else None)
        return [*checks, Check("cluster", "FAIL", error.message, hint)]
    except (ServiceUnreachable, JobNotFound) as error:
        hint = error.hint.removeprefix(doctor_hint(cluster))
        return [*checks, Check("cluster", "FAIL", error.message, hint)]


def _about_token(file: Path | None) -> str:
    """How to get a token back; empty where its file is fine, or not known.

    Args:
        file: That the cluster's context names, or a variable.
    """
    if file is None:
        return ""
    try:
        read_token(file, "token")
    except ClusterConfigError as error:
        return error.hint or lost_token_hint(file)
    return ""


def _connection(cluster: Cluster, ray_version: str) -> list[Check]:
    found = Check("cluster", "ok", f"{cluster.label} runs Ray {ray_version}")
    try:
        RayJobsClient(_Anonymous(cluster.address, ca_file=cluster.ca_file)).ray_version()
    except ServiceUnreachable:
        return [found, Check("token", "ok", "ours is accepted, and who has none is refused")]
    return [
        found,
        Check(
            "token",
            "warn",
            "the cluster admits everybody who reaches it, and lets them run code",
            "RAY_AUTH_MODE=token and a token file for every Ray process; see docs/machines.md",
        ),
    ]


class _Anonymous(Cluster):
    """A cluster that is shown no token."""

    def token(self) -> str | None:
        """None, whatever the environment has."""
        return None


def _mlflow_here(cluster: Cluster) -> list[Check]:
    uri = cluster.tracking_uri
    if uri is None:
        return [
            Check(
                "MLflow here",
                "warn",
                "not known here, so 'sumgrad status' can ask Ray alone",
                "MLFLOW_TRACKING_URI, or sumgrad cluster add NAME URL --tracking-uri URI",
            )
        ]
    problem = mlflow_problem(uri, cluster.login)
    if problem is not None:
        hint = _about_token(cluster.tracking_token_file)
        return [Check("MLflow here", "FAIL", problem, hint)]
    found = Check("MLflow here", "ok", f"{redact(uri)} answers")
    return [found, _login(uri)] if is_server(uri) else [found]


def _login(uri: str) -> Check:
    """Of a server that takes ours, if it asks for one."""
    if requires_login(uri):
        return Check("login", "ok", "ours is accepted by MLflow, and who has none is refused")
    return Check(
        "login",
        "warn",
        "MLflow asks for none: who reaches it reads, changes and deletes runs and models",
        "python -P -m sumgrad.jobs.service.local.mlflow_server instead of 'mlflow server'; "
        "docs/machines.md",
    )


def _versions(here: Versions, there: Versions) -> list[Check]:
    lacking = [name for name, version in there.libraries.items() if version == "none"]
    if lacking:
        text = f"the cluster's head lacks {', '.join(lacking)}"
        return [Check("versions", "FAIL", text, f"there: {INSTALL_HINT}")]
    differences = here.differences(there)
    if differences:
        hint = "the weights may come out otherwise there; 'submit' wants --allow-version-mismatch"
        found = Check("versions", "FAIL", "; ".join(differences), hint)
    else:
        found = Check("versions", "ok", f"Python {there.python} and the libraries are the same")
    if there.code == here.code:
        return [found, Check("sumgrad", "ok", f"{there.sumgrad}, the same as here")]
    which = "none" if there.code == "none" else f"another one ({there.sumgrad})"
    text = f"the cluster has {which}; the code of this one ({here.sumgrad}) goes along with jobs"
    return [found, Check("sumgrad", "ok", text)]


def _probe(server: RayJobsClient, there: Versions, paths: list[str]) -> dict[str, Any]:
    question = shlex.quote(json.dumps({"paths": paths}))
    command = f"{PYTHON} -P -m sumgrad.jobs.service.client.probe {question}"
    with temporary_directory("doctor-") as folder:
        code = {}
        if there.code != Versions.here().code:
            code = {"py_modules": [str(module) for module in copy_source(folder)]}
        facts: dict[str, Any] = ask(server, command, **code)
        return facts


def _cluster_findings(facts: dict[str, Any], asked: float, data: Sequence[str]) -> list[Check]:
    return [
        *_nodes(facts),
        *_room(facts),
        _mlflow_there(facts),
        *([_data(facts, data)] if data else []),
        _clocks(facts, asked),
        _output(facts),
    ]


def _nodes(facts: dict[str, Any]) -> list[Check]:
    silent = [f"{node['host']}: {node['problem']}" for node in facts["nodes"] if node["problem"]]
    if silent:
        return [Check("nodes", "FAIL", "; ".join(silent), "look at 'ray status' on the head")]
    numpys = {node["numpy"] for node in facts["nodes"]}
    if len(numpys) > 1:
        text = f"machines have different NumPys: {', '.join(sorted(numpys))}"
        return [Check("nodes", "FAIL", text, "the same versions on all of them")]
    names = ", ".join(node["host"] for node in facts["nodes"])
    return [Check("nodes", "ok", f"{len(facts['nodes'])} answer: {names}")]


def _room(facts: dict[str, Any]) -> list[Check]:
    cpus, free = int(facts["cpus"]), int(facts["free_cpus"])
    text = (
        f"{free} of {cpus} CPUs are free, {facts['free_memory'] / _GIB:.1f} of "
        f"{facts['memory'] / _GIB:.1f} GiB of memory"
    )
    if not cpus:
        return [Check("room", "FAIL", "the cluster has no CPUs", "add a node")]
    if not free:
        return [Check("room", "warn", text, "a job waits as PENDING until some are free")]
    return [Check("room", "ok", text)]


def _mlflow_there(facts: dict[str, Any]) -> Check:
    uri = facts["mlflow_uri"]
    if facts["mlflow_problem"]:
        return Check("MLflow there", "FAIL", facts["mlflow_problem"])
    if not uri:
        return Check(
            "MLflow there",
            "warn",
            "the head's environment names none: curves go into a file on the head",
            "MLFLOW_TRACKING_URI in the environment of 'ray start' on the head",
        )
    if not is_server(uri):
        return Check("MLflow there", "ok", f"{uri}, a database that the head can use")
    return Check("MLflow there", "ok", f"{uri} answers the cluster's head")


def _data(facts: dict[str, Any], data: Sequence[str]) -> Check:
    head, workers = facts["head"], facts["nodes"]
    if head["unreadable"]:
        return Check(
            "data",
            "FAIL",
            f"the head cannot read {', '.join(head['unreadable'])}",
            "a job's rows are read on the head, and travel from there",
        )
    some = sum(bool(node.get("unreadable")) for node in workers)
    if some:
        text = f"the head can read them; {some} of {len(workers)} machines cannot, and need not"
        return Check("data", "ok", text)
    return Check("data", "ok", f"all machines can read {', '.join(data)}")


def _clocks(facts: dict[str, Any], asked: float) -> Check:
    now = time.time()
    times = [node["time"] for node in facts["nodes"] if "time" in node]
    # Each was read between the question and the answer; within those nothing can be told.
    skews = [max(asked - at, at - now, 0.0) for at in times]
    if skews and max(skews) > MAX_CLOCK_SKEW_S:
        text = f"a machine's clock differs from this one's by {max(skews):.0f} s or more"
        return Check("clocks", "warn", text, "let all machines ask a time server")
    return Check("clocks", "ok", f"differ by less than {max(MAX_CLOCK_SKEW_S, now - asked):.0f} s")


def _output(facts: dict[str, Any]) -> Check:
    if facts["output"]:
        return Check("runs", "ok", f"are kept in {facts['output']} on the head")
    return Check(
        "runs",
        "warn",
        "are kept in ~/sumgrad on the head",
        "SUMGRAD_OUTPUT there: a folder that outlives the head, so that 'resume' can go on",
    )


def table(checks: Sequence[Check]) -> list[str]:
    """For a person."""
    width = max(len(check.what) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.what:<{width}}  {check.text}")
        if check.hint:
            lines.append(f"{'':<4}  {'':<{width}}  → {check.hint}")
    return lines
