"""``sumgrad doctor``: what stands between a job and a cluster, in one table."""

import json
import os
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sumgrad.jobs.config.clusters import TOKEN_PATH, Cluster
from sumgrad.jobs.config.token_hint import token_hint
from sumgrad.jobs.config.tokens import read_token
from sumgrad.jobs.config.tracking_uri import is_server
from sumgrad.jobs.errors import ContextError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.data_paths import ON_CLUSTER
from sumgrad.jobs.service.client.mlflow_check import asks_for_login, mlflow_problem
from sumgrad.jobs.service.client.preflight import PYTHON, ask, cluster_versions
from sumgrad.jobs.service.client.ray_api import JobServer, Server, looks_closer
from sumgrad.jobs.service.versions import INSTALL, Versions, copy_code
from sumgrad.jobs.support.redaction import redact

#: Clocks that differ by more make curves and signs of life hard to read, in seconds.
MOST_SKEW_S = 5.0
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        what: What was looked at.
        verdict: ``ok``, ``warn`` for what works but should not stay so, ``FAIL``.
        text: What was found.
        hint: What to do about it.
    """

    what: str
    verdict: Literal["ok", "warn", "FAIL"]
    text: str
    hint: str = ""


def examine(cluster: Cluster, data: Sequence[str] = ()) -> list[Finding]:
    """Look at everything that a job needs; what builds on a failure is left out.

    Args:
        cluster: Which.
        data: Paths that the cluster's machines should be able to read.
    """
    findings = _mlflow_here(cluster)
    try:
        server = JobServer(cluster)
        described = server.describe()
        findings = [*_connection(cluster, described), *findings]
        versions = cluster_versions(server, described)
        findings += _versions(Versions.here(), versions)
        if "none" in versions.libraries.values():
            return findings
        asked = time.time()
        facts = _probe(server, versions, [path.removeprefix(ON_CLUSTER) for path in data])
        return findings + _cluster_findings(facts, asked, data)
    except ContextError as error:
        file = cluster.token_file or os.environ.get(TOKEN_PATH)
        hint = error.hint or _about_token(Path(file) if file else None)
        return [*findings, Finding("cluster", "FAIL", error.message, hint)]
    except (ServiceUnreachable, JobNotFound) as error:
        hint = error.hint.removeprefix(looks_closer(cluster))
        return [*findings, Finding("cluster", "FAIL", error.message, hint)]


def _about_token(file: Path | None) -> str:
    """How to get a token back; empty where its file is fine, or not known.

    Args:
        file: That the cluster's context names, or a variable.
    """
    if file is None:
        return ""
    try:
        read_token(file, "token")
    except ContextError as error:
        return error.hint or token_hint(file)
    return ""


def _connection(cluster: Cluster, described: Server) -> list[Finding]:
    found = Finding("cluster", "ok", f"{cluster.label} runs Ray {described.ray_version}")
    try:
        JobServer(_Anonymous(cluster.address, ca_file=cluster.ca_file)).describe()
    except ServiceUnreachable:
        return [found, Finding("token", "ok", "ours is accepted, and who has none is refused")]
    return [
        found,
        Finding(
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


def _mlflow_here(cluster: Cluster) -> list[Finding]:
    uri = cluster.tracking_uri
    if uri is None:
        return [
            Finding(
                "MLflow here",
                "warn",
                "not known here, so 'sumgrad status' can ask Ray alone",
                "MLFLOW_TRACKING_URI, or sumgrad cluster add NAME URL --tracking-uri URI",
            )
        ]
    problem = mlflow_problem(uri, cluster.login)
    if problem is not None:
        hint = _about_token(cluster.tracking_token_file)
        return [Finding("MLflow here", "FAIL", problem, hint)]
    found = Finding("MLflow here", "ok", f"{redact(uri)} answers")
    return [found, _login(uri)] if is_server(uri) else [found]


def _login(uri: str) -> Finding:
    """Of a server that takes ours, if it asks for one."""
    if asks_for_login(uri):
        return Finding("login", "ok", "ours is accepted by MLflow, and who has none is refused")
    return Finding(
        "login",
        "warn",
        "MLflow asks for none: who reaches it reads, changes and deletes runs and models",
        "python -P -m sumgrad.jobs.service.local.mlflow_server instead of 'mlflow server'; "
        "docs/machines.md",
    )


def _versions(here: Versions, there: Versions) -> list[Finding]:
    lacking = [name for name, version in there.libraries.items() if version == "none"]
    if lacking:
        text = f"the cluster's head lacks {', '.join(lacking)}"
        return [Finding("versions", "FAIL", text, f"there: {INSTALL}")]
    differences = here.differences(there)
    if differences:
        hint = "the weights may come out otherwise there; 'submit' wants --any-version"
        found = Finding("versions", "FAIL", "; ".join(differences), hint)
    else:
        found = Finding("versions", "ok", f"Python {there.python} and the libraries are the same")
    if there.code == here.code:
        return [found, Finding("sumgrad", "ok", f"{there.sumgrad}, the same as here")]
    which = "none" if there.code == "none" else f"another one ({there.sumgrad})"
    text = f"the cluster has {which}; the code of this one ({here.sumgrad}) goes along with jobs"
    return [found, Finding("sumgrad", "ok", text)]


def _probe(server: JobServer, there: Versions, paths: list[str]) -> dict[str, Any]:
    question = shlex.quote(json.dumps({"paths": paths}))
    command = f"{PYTHON} -P -m sumgrad.jobs.service.client.probe {question}"
    with tempfile.TemporaryDirectory(prefix="sumgrad-doctor-") as folder:
        code = {}
        if there.code != Versions.here().code:
            code = {"py_modules": [str(module) for module in copy_code(Path(folder))]}
        facts: dict[str, Any] = ask(server, command, **code)
        return facts


def _cluster_findings(facts: dict[str, Any], asked: float, data: Sequence[str]) -> list[Finding]:
    return [
        *_nodes(facts),
        *_room(facts),
        _mlflow_there(facts),
        *([_data(facts, data)] if data else []),
        _clocks(facts, asked),
        _output(facts),
    ]


def _nodes(facts: dict[str, Any]) -> list[Finding]:
    silent = [f"{node['host']}: {node['problem']}" for node in facts["nodes"] if node["problem"]]
    if silent:
        return [Finding("nodes", "FAIL", "; ".join(silent), "look at 'ray status' on the head")]
    numpys = {node["numpy"] for node in facts["nodes"]}
    if len(numpys) > 1:
        text = f"machines have different NumPys: {', '.join(sorted(numpys))}"
        return [Finding("nodes", "FAIL", text, "the same versions on all of them")]
    names = ", ".join(node["host"] for node in facts["nodes"])
    return [Finding("nodes", "ok", f"{len(facts['nodes'])} answer: {names}")]


def _room(facts: dict[str, Any]) -> list[Finding]:
    cpus, free = int(facts["cpus"]), int(facts["free_cpus"])
    text = (
        f"{free} of {cpus} CPUs are free, {facts['free_memory'] / _GIB:.1f} of "
        f"{facts['memory'] / _GIB:.1f} GiB of memory"
    )
    if not cpus:
        return [Finding("room", "FAIL", "the cluster has no CPUs", "add a node")]
    if not free:
        return [Finding("room", "warn", text, "a job waits as PENDING until some are free")]
    return [Finding("room", "ok", text)]


def _mlflow_there(facts: dict[str, Any]) -> Finding:
    uri = facts["mlflow_uri"]
    if facts["mlflow_problem"]:
        return Finding("MLflow there", "FAIL", facts["mlflow_problem"])
    if not uri:
        return Finding(
            "MLflow there",
            "warn",
            "the head's environment names none: curves go into a file on the head",
            "MLFLOW_TRACKING_URI in the environment of 'ray start' on the head",
        )
    if not is_server(uri):
        return Finding("MLflow there", "ok", f"{uri}, a database that the head can use")
    return Finding("MLflow there", "ok", f"{uri} answers the cluster's head")


def _data(facts: dict[str, Any], data: Sequence[str]) -> Finding:
    head, workers = facts["head"], facts["nodes"]
    if head["unreadable"]:
        return Finding(
            "data",
            "FAIL",
            f"the head cannot read {', '.join(head['unreadable'])}",
            "a job's rows are read on the head, and travel from there",
        )
    some = sum(bool(node.get("unreadable")) for node in workers)
    if some:
        text = f"the head can read them; {some} of {len(workers)} machines cannot, and need not"
        return Finding("data", "ok", text)
    return Finding("data", "ok", f"all machines can read {', '.join(data)}")


def _clocks(facts: dict[str, Any], asked: float) -> Finding:
    now = time.time()
    times = [node["time"] for node in facts["nodes"] if "time" in node]
    # Each was read between the question and the answer; within those nothing can be told.
    skews = [max(asked - at, at - now, 0.0) for at in times]
    if skews and max(skews) > MOST_SKEW_S:
        text = f"a machine's clock differs from this one's by {max(skews):.0f} s or more"
        return Finding("clocks", "warn", text, "let all machines ask a time server")
    return Finding("clocks", "ok", f"differ by less than {max(MOST_SKEW_S, now - asked):.0f} s")


def _output(facts: dict[str, Any]) -> Finding:
    if facts["output"]:
        return Finding("runs", "ok", f"are kept in {facts['output']} on the head")
    return Finding(
        "runs",
        "warn",
        "are kept in ~/sumgrad on the head",
        "SUMGRAD_OUTPUT there: a folder that outlives the head, so that 'resume' can go on",
    )


def table(findings: Sequence[Finding]) -> list[str]:
    """For a person."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:<4}  {finding.what:<{width}}  {finding.text}")
        if finding.hint:
            lines.append(f"{'':<4}  {'':<{width}}  → {finding.hint}")
    return lines
