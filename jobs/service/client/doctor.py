"""``sumgrad doctor``: checks of everything that a job needs from a cluster, as a table."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sumgrad.jobs.config.clusters import TOKEN_PATH, Cluster
from sumgrad.jobs.config.tokens import lost_token_hint, read_token
from sumgrad.jobs.config.tracking_uri import is_server
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.data_paths import FILE_SCHEME
from sumgrad.jobs.service.client.ray_api import RayJobsClient, doctor_hint
from sumgrad.jobs.service.client.remote_probe import run_probe
from sumgrad.jobs.service.host.probe import ClusterReport
from sumgrad.jobs.service.mlflow_check import mlflow_problem, requires_login
from sumgrad.jobs.service.versions import INSTALL_HINT, Versions
from sumgrad.jobs.support.redaction import redact

#: With a larger skew, curves and heartbeats are hard to read.
MAX_CLOCK_SKEW_S = 5.0
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: The subject.
        status: ``warn`` for what works but should be changed.
        message: The finding.
        hint: How to fix it.
    """

    name: str
    status: Literal["ok", "warn", "FAIL"]
    message: str
    hint: str = ""


def run_checks(cluster: Cluster, data: Sequence[str] = ()) -> list[Check]:
    """Check everything that a job needs; checks that depend on a failed one are left out.

    Args:
        cluster: The cluster.
        data: Paths that its machines should be able to read.
    """
    checks = _check_mlflow_from_here(cluster)
    try:
        client = RayJobsClient(cluster)
        checks = [*_check_connection(cluster, client.ray_version()), *checks]
        start = time.time()
        report = run_probe(client, [path.removeprefix(FILE_SCHEME) for path in data])
    except ClusterConfigError as error:
        file = cluster.token_file or os.environ.get(TOKEN_PATH)
        hint = error.hint or _token_file_hint(Path(file) if file else None)
        return [*checks, Check("cluster", "FAIL", error.message, hint)]
    except (ServiceUnreachable, JobNotFound) as error:
        hint = error.hint.removeprefix(doctor_hint(cluster))
        return [*checks, Check("cluster", "FAIL", error.message, hint)]
    if report.versions.missing:
        text = f"the cluster's head lacks {', '.join(report.versions.missing)}"
        return [*checks, Check("versions", "FAIL", text, f"there: {INSTALL_HINT}")]
    return [
        *checks,
        *_check_versions(Versions.here(), report),
        _check_nodes(report),
        _check_resources(report),
        _check_mlflow_from_head(report),
        *([_check_data(report, data)] if data else []),
        _check_clocks(report, start),
        _check_output(report),
    ]


def _token_file_hint(file: Path | None) -> str:
    """Return how to restore a token; empty if its file is valid or unknown."""
    if file is None:
        return ""
    try:
        read_token(file, "token")
    except ClusterConfigError as error:
        return error.hint or lost_token_hint(file)
    return ""


class _AnonymousCluster(Cluster):
    """A cluster that is sent no token."""

    def token(self) -> str | None:
        """Return None, whatever the environment holds."""
        return None


def _check_connection(cluster: Cluster, ray_version: str) -> list[Check]:
    found = Check("cluster", "ok", f"{cluster.label} runs Ray {ray_version}")
    try:
        RayJobsClient(_AnonymousCluster(cluster.address, ca_file=cluster.ca_file)).ray_version()
    except ServiceUnreachable:
        return [
            found,
            Check("token", "ok", "accepted, and clients without one are refused"),
        ]
    return [
        found,
        Check(
            "token",
            "warn",
            "the cluster requires no token: every client that reaches it can run code",
            "RAY_AUTH_MODE=token and a token file for every Ray process; see docs/machines.md",
        ),
    ]


def _check_mlflow_from_here(cluster: Cluster) -> list[Check]:
    name, uri = "MLflow from here", cluster.tracking_uri
    if uri is None:
        text = "its address is unknown, so 'sumgrad status' can ask Ray alone"
        hint = "set MLFLOW_TRACKING_URI, or sumgrad cluster add NAME URL --tracking-uri URI"
        return [Check(name, "warn", text, hint)]
    problem = mlflow_problem(uri, cluster.login)
    if problem is not None:
        return [Check(name, "FAIL", problem, _token_file_hint(cluster.tracking_token_file))]
    found = Check(name, "ok", f"{redact(uri)} answers")
    return [found, _check_login(uri)] if is_server(uri) else [found]


def _check_login(uri: str) -> Check:
    """Check that a server which accepts our login refuses clients without one."""
    if requires_login(uri):
        return Check("login", "ok", "MLflow accepts ours, and refuses clients without one")
    return Check(
        "login",
        "warn",
        "MLflow requires none: every client that reaches it can change and delete runs and models",
        "python -P -m sumgrad.jobs.service.local.mlflow_server instead of 'mlflow server'; "
        "docs/machines.md",
    )


def _check_versions(here: Versions, report: ClusterReport) -> list[Check]:
    there = report.versions
    if differences := here.differences(there):
        hint = "the weights may differ; 'submit' requires --allow-version-mismatch"
        found = Check("versions", "FAIL", "; ".join(differences), hint)
    else:
        found = Check("versions", "ok", f"Python {there.python} and the libraries are the same")
    installed = f"has {report.installed}" if report.installed else "has none of its own"
    text = f"the cluster {installed}; jobs run the code of this one, {here.sumgrad}"
    return [found, Check("sumgrad", "ok", text)]


def _check_nodes(report: ClusterReport) -> Check:
    if failed := [f"{node.host}: {node.problem}" for node in report.nodes if node.problem]:
        return Check("nodes", "FAIL", "; ".join(failed), "look at 'ray status' on the head")
    numpys = {node.numpy for node in report.nodes}
    if len(numpys) > 1:
        text = f"machines have different NumPys: {', '.join(sorted(numpys))}"
        return Check("nodes", "FAIL", text, "install the same versions on all of them")
    names = ", ".join(node.host for node in report.nodes)
    return Check("nodes", "ok", f"{len(report.nodes)} answer: {names}")


def _check_resources(report: ClusterReport) -> Check:
    cpus, free = int(report.cpus), int(report.free_cpus)
    text = (
        f"{free} of {cpus} CPUs are free, {report.free_memory / _GIB:.1f} of "
        f"{report.memory / _GIB:.1f} GiB of memory"
    )
    if not cpus:
        return Check("resources", "FAIL", "the cluster has no CPUs", "add a node")
    if not free:
        return Check("resources", "warn", text, "a job waits as PENDING until some are free")
    return Check("resources", "ok", text)


def _check_mlflow_from_head(report: ClusterReport) -> Check:
    name, uri = "MLflow from the head", report.mlflow_uri
    if report.mlflow_problem:
        return Check(name, "FAIL", report.mlflow_problem)
    if not uri:
        return Check(
            name,
            "warn",
            "the head's environment names none: curves go into a file on the head",
            "set MLFLOW_TRACKING_URI in the environment of 'ray start' on the head",
        )
    kind = "answers" if is_server(uri) else "is a database that the head can use"
    return Check(name, "ok", f"{uri} {kind}")


def _check_data(report: ClusterReport, data: Sequence[str]) -> Check:
    if report.head.unreadable:
        text = f"the head cannot read {', '.join(report.head.unreadable)}"
        return Check("data", "FAIL", text, "jobs read their data on the head")
    if failed := sum(bool(node.unreadable) for node in report.nodes):
        text = f"the head can read them; {failed} of {len(report.nodes)} machines cannot"
        return Check("data", "ok", f"{text}, and need not")
    return Check("data", "ok", f"all machines can read {', '.join(data)}")


def _check_clocks(report: ClusterReport, start: float) -> Check:
    end = time.time()
    # Each clock was read between start and end; smaller differences cannot be seen.
    skews = [max(start - node.time, node.time - end, 0.0) for node in report.nodes if node.time]
    if skews and max(skews) > MAX_CLOCK_SKEW_S:
        text = f"a machine's clock differs from this one's by {max(skews):.0f} s or more"
        return Check("clocks", "warn", text, "synchronize all machines with a time server")
    limit = max(MAX_CLOCK_SKEW_S, end - start)
    return Check("clocks", "ok", f"they differ by less than {limit:.0f} s")


def _check_output(report: ClusterReport) -> Check:
    if report.output:
        return Check("output", "ok", f"runs are kept in {report.output} on the head")
    return Check(
        "output",
        "warn",
        "runs are kept in ~/sumgrad on the head",
        "set SUMGRAD_OUTPUT there to a folder that outlives the head, so that 'resume' finds them",
    )


def table(checks: Sequence[Check]) -> list[str]:
    """Return the lines of the table, each hint below its check."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.message}")
        if check.hint:
            lines.append(f"{'':<4}  {'':<{width}}  → {check.hint}")
    return lines
