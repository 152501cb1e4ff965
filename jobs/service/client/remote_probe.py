"""The short job of ``sumgrad doctor`` that reports on a cluster from its head."""

import json
import secrets
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress

from pydantic import TypeAdapter, ValidationError

from sumgrad.cluster.temporary import temporary_directory
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.follow import wait
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.host.probe import REPORT_PREFIX, ClusterReport
from sumgrad.jobs.service.manifest import PYTHON
from sumgrad.jobs.service.states import SUCCEEDED
from sumgrad.jobs.support.source_digest import copy_source
from sumgrad.jobs.support.text import one_line

#: Ray's ids of these jobs start with it.
ID_PREFIX = "sumgrad-probe-"
#: A cluster that has just started needs half a minute for its first job.
PROBE_TIMEOUT_S = 90.0
_INTERVAL_S = 0.3
_STOP_TIMEOUT_S = 10.0
#: Ray polls its jobs once a second. A job that is deleted before Ray has seen its end comes back,
#: as one that died.
_SETTLE_S = 2.0


def run_probe(client: RayJobsClient, paths: Sequence[str] = ()) -> ClusterReport:
    """Run `sumgrad.jobs.service.host.probe` on a cluster, with the code of this machine.

    Args:
        client: The cluster's job server.
        paths: Paths that the cluster's machines should be able to read.

    Raises:
        ServiceUnreachable: The job did not run, or printed no report.
    """
    name = f"{ID_PREFIX}{secrets.token_hex(4)}"
    question = shlex.quote(json.dumps(list(paths)))
    command = f"{PYTHON} -P -m sumgrad.jobs.service.host.probe {question}"
    with temporary_directory("doctor-") as folder:
        modules = [str(module) for module in copy_source(folder)]
        client.submit(name, command, {"py_modules": modules}, {})
    address = client.cluster.address
    try:
        attempt = wait(client, name, timeout=PROBE_TIMEOUT_S, interval=_INTERVAL_S)
        if attempt is None:
            raise ServiceUnreachable(
                f"the cluster at {address} has not run a short job in {PROBE_TIMEOUT_S:g} s",
                hint="look at 'ray job list' and the head's logs",
            )
        lines = [line for line in client.get_log(name).splitlines() if line.strip()]
    finally:
        _delete(client, name)
    reports = [line.removeprefix(REPORT_PREFIX) for line in lines if line.startswith(REPORT_PREFIX)]
    if attempt.state != SUCCEEDED or not reports:
        last = one_line(lines[-1] if lines else attempt.message, 200)
        raise ServiceUnreachable(
            f"the cluster at {address} accepts jobs but cannot run one: {last}",
            hint="SUMGRAD_PYTHON on the cluster's head names its Python, if that is not 'python'",
        )
    try:
        return TypeAdapter(ClusterReport).validate_json(reports[-1])
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
