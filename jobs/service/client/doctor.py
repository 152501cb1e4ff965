"""``sumgrad doctor``: checks of everything that a job needs from a cluster, as a table."""

import json
import secrets
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from pydantic import ValidationError

from sumgrad.cluster.temporary import temporary_directory
from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.config.tracking_uri import is_server
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.checks import REPORT_PREFIX, Check, Report, check_mlflow
from sumgrad.jobs.service.client.follow import wait
from sumgrad.jobs.service.client.ray_api import RayJobsClient, doctor_hint
from sumgrad.jobs.service.manifest import FILE_SCHEME, PYTHON
from sumgrad.jobs.service.states import SUCCEEDED
from sumgrad.jobs.service.versions import Versions
from sumgrad.jobs.support.source_digest import copy_source
from sumgrad.jobs.support.text import align_columns, one_line

MAX_CLOCK_SKEW_S = 5.0  #: With a larger skew, curves and heartbeats are hard to read.
ID_PREFIX = "sumgrad-probe-"  #: Ray's ids of the jobs that make checks on the head start with it.
PROBE_TIMEOUT_S = 90.0  #: A cluster that has just started needs half a minute for its first job.
_INTERVAL_S = 0.3
_STOP_TIMEOUT_S = 10.0
#: Ray polls its jobs once a second. A job deleted before Ray has seen its end comes back, as dead.
_SETTLE_S = 2.0


def run_checks(cluster: Cluster, data: Sequence[str] = ()) -> list[Check]:
    """Check everything that a job needs; checks that depend on a failed one are left out.

    The machines of the cluster should be able to read the paths ``data``.
    """
    checks = _check_mlflow(cluster)
    try:
        client = RayJobsClient(cluster)
        checks = [*_check_connection(client), *checks]
        start = time.time()
        report = run_probe(client, [path.removeprefix(FILE_SCHEME) for path in data])
    except (ClusterConfigError, ServiceUnreachable, JobNotFound) as error:
        hint = error.hint.removeprefix(doctor_hint(cluster))
        return [*checks, Check("cluster", "FAIL", error.message, hint)]
    return [*checks, *report.checks, *_check_clocks(report.clocks, start)]


def table(checks: Sequence[Check]) -> list[str]:
    """Return the lines of the table, each hint below its check."""
    rows: list[tuple[str, str, str]] = []
    for check in checks:
        rows.append((check.status, check.name, check.message))
        if check.hint:
            rows.append(("", "", f"→ {check.hint}"))
    return align_columns(rows)


def run_probe(client: RayJobsClient, data: Sequence[str] = ()) -> Report:
    """Run `host.probe` on a cluster with this machine's code, or raise `ServiceUnreachable`."""
    name = f"{ID_PREFIX}{secrets.token_hex(4)}"
    arguments = shlex.join([json.dumps(asdict(Versions.here())), *data])
    command = f"{PYTHON} -P -m sumgrad.jobs.service.host.probe {arguments}"
    with temporary_directory("doctor-") as folder:
        modules = [str(module) for module in copy_source(folder)]
        client.submit(name, command, {"py_modules": modules}, {})
    address = client.cluster.address
    try:
        attempt = wait(client, name, timeout=PROBE_TIMEOUT_S, interval=_INTERVAL_S)
        if attempt is None:
            problem = f"the cluster at {address} has not run a short job in {PROBE_TIMEOUT_S:g} s"
            raise ServiceUnreachable(problem, hint="look at 'ray job list' and the head's logs")
        lines = [line for line in client.get_log(name).splitlines() if line.strip()]
    finally:
        _delete(client, name)
    reports = [line.removeprefix(REPORT_PREFIX) for line in lines if line.startswith(REPORT_PREFIX)]
    if attempt.ray_state != SUCCEEDED or not reports:
        last = one_line(lines[-1] if lines else attempt.message, 200)
        raise ServiceUnreachable(
            f"the cluster at {address} accepts jobs but cannot run one: {last}",
            hint="SUMGRAD_PYTHON on the cluster's head names its Python, if that is not 'python'",
        )
    try:
        return Report.model_validate_json(reports[-1])
    except ValidationError:
        raise ServiceUnreachable(
            f"the cluster at {address} reports what cannot be read: {one_line(reports[-1], 200)}"
        ) from None


def _delete(client: RayJobsClient, name: str) -> None:
    """Delete the job, and stop it first if it still runs."""
    with suppress(ServiceUnreachable, JobNotFound):
        if not client.get_attempt(name).has_ended:
            client.stop(name)
            wait(client, name, timeout=_STOP_TIMEOUT_S, interval=_INTERVAL_S)
        time.sleep(_SETTLE_S)
        client.delete(name)


def _check_connection(client: RayJobsClient) -> list[Check]:
    text = f"{client.cluster.label} runs Ray {client.ray_version()}"
    if client.requires_token():
        token = Check("token", "ok", "accepted, and clients without one are refused")
    else:
        problem = "the cluster requires no token: every client that reaches it can run code"
        hint = "RAY_AUTH_MODE=token and a token file for every Ray process; see docs/machines.md"
        token = Check("token", "warn", problem, hint)
    return [Check("cluster", "ok", text), token]


def _check_mlflow(cluster: Cluster) -> list[Check]:
    """Check the cluster's MLflow as this machine reaches it, and that it requires a login."""
    name, uri = "MLflow from here", cluster.tracking_uri
    if uri is None:
        text = "its address is unknown, so 'sumgrad status' can ask Ray alone"
        hint = "set MLFLOW_TRACKING_URI, or sumgrad cluster add NAME URL --tracking-uri URI"
        return [Check(name, "warn", text, hint)]
    found, requires_login = check_mlflow(name, uri, cluster.login)
    if found.status == "FAIL" or not is_server(uri):
        return [found]
    if requires_login:
        text = "the login is accepted, and clients without a login are refused"
        return [found, Check("login", "ok", text)]
    text = "MLflow requires no login: every client that reaches it can change and delete runs"
    server = "python -P -m sumgrad.jobs.service.local.mlflow_server"
    hint = f"{server} instead of 'mlflow server'; docs/machines.md"
    return [found, Check("login", "warn", text, hint)]


def _check_clocks(clocks: Sequence[float], start: float) -> list[Check]:
    """Check the clocks of machines, each of which was read between ``start`` and now."""
    if not clocks:
        return []
    end = time.time()
    skew = max(max(start - clock, clock - end, 0.0) for clock in clocks)
    if skew > MAX_CLOCK_SKEW_S:
        text = f"a machine's clock differs from this one's by {skew:.0f} s or more"
        return [Check("clocks", "warn", text, "synchronize all machines with a time server")]
    # Smaller differences cannot be seen.
    limit = max(MAX_CLOCK_SKEW_S, end - start)
    return [Check("clocks", "ok", f"they differ by less than {limit:.0f} s")]
