"""Short jobs that tell what a cluster's head has installed."""

import json
import secrets
import shlex
import time
from contextlib import suppress
from typing import Any

from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.follow import wait
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.manifest import PYTHON
from sumgrad.jobs.service.states import SUCCEEDED
from sumgrad.jobs.service.versions import Versions

#: A line of the probe's answer begins so.
_MARK = "sumgrad-probe:"
#: How long a probe may take: a cluster that has just started needs half a minute for its first job.
PROBE_S = 90.0
_LOOK_S = 0.3
#: One that is told to end has so long for it, in seconds.
_STOP_S = 10.0
#: After its end Ray has so long to see it, in seconds.
_SETTLE_S = 2.0
#: And one that is so old has nobody any more who waits for it: who asked it was ended.
_LEFT_S = 600.0
#: Ray's names of probes begin so.
_PROBES = "sumgrad-probe-"

#: Runs where there may be no sumgrad, or another one.
_PROBE = f"""
import json, platform
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
try:
    from sumgrad.jobs.support.source_digest import source_digest
    code = source_digest()
except ImportError:
    code = "none"
print({_MARK!r} + json.dumps({{
    "sumgrad": version("sumgrad"),
    "code": code,
    "python": ".".join(platform.python_version_tuple()[:2]),
    "libraries": {{name: version(name) for name in ("ray", "numpy", "mlflow", "pyarrow")}},
}}))
"""


def cluster_versions(client: RayJobsClient) -> Versions:
    """Return what the cluster's head has installed; 'none' for what it has not.

    Raises:
        ServiceUnreachable: It does not answer, or runs no jobs.
    """
    return Versions.from_json(ask(client, f"{PYTHON} -P -c {shlex.quote(_PROBE)}"))


def ask(server: RayJobsClient, command: str, **runtime_env: Any) -> Any:
    """Run a short command on the cluster that prints an answer as JSON.

    Raises:
        ServiceUnreachable: It did not run, or gave no answer.
    """
    name = f"{_PROBES}{secrets.token_hex(4)}"
    server.submit(name, command, runtime_env, {})
    try:
        attempt = wait(server, name, timeout=PROBE_S, interval=_LOOK_S)
        if attempt is None:
            raise ServiceUnreachable(
                f"the cluster at {server.cluster.address} has not run a short job in {PROBE_S:g} s",
                hint="look at 'ray job list' and the head's logs",
            )
        lines = server.get_log(name).splitlines()
    finally:
        _forget(server, name)
    answers = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    if attempt.state != SUCCEEDED or not answers:
        last = next((line for line in reversed(lines) if line.strip()), attempt.message)
        raise ServiceUnreachable(
            f"the cluster at {server.cluster.address} takes jobs, but cannot run one: {last[:200]}",
            hint="SUMGRAD_PYTHON on the cluster's head names its Python, if that is not 'python'",
        )
    try:
        return json.loads(answers[-1])
    except (ValueError, RecursionError):
        raise ServiceUnreachable(
            f"the cluster at {server.cluster.address} gives an answer that cannot be understood: "
            f"{answers[-1][:200]}"
        ) from None


def _forget(server: RayJobsClient, name: str) -> None:
    """Have the cluster forget a probe, and others that nobody has taken away."""
    with suppress(ServiceUnreachable, JobNotFound):
        _end(server, name)
        for left in _left_behind(server, name):
            _end(server, left)
            server.delete(left)
    # Ray looks after its jobs once a second. One that is forgotten before it has seen that it is
    # over, it takes for one that has died, and has again.
    time.sleep(_SETTLE_S)
    with suppress(ServiceUnreachable, JobNotFound):
        server.delete(name)


def _end(server: RayJobsClient, name: str) -> None:
    """Stop a probe if it has not ended, for Ray forgets none before."""
    if not server.get_attempt(name).has_ended:
        server.stop(name)
        wait(server, name, timeout=_STOP_S, interval=_LOOK_S)


def _left_behind(server: RayJobsClient, name: str) -> list[str]:
    """Probes that nobody asks any more, by the cluster's own clock."""
    probes = [each for each in server.list_attempts() if each.submission_id.startswith(_PROBES)]
    began = next((each.start_time for each in probes if each.submission_id == name), None)
    return [
        each.submission_id
        for each in probes
        # One that has never begun is what Ray has again of one that was forgotten.
        if each.submission_id != name
        and (
            (each.has_ended and each.start_time is None)
            or (began is not None and (each.start_time or began) < began - _LEFT_S)
        )
    ]


def answer(value: Any) -> None:
    """On the cluster: print an answer for `ask`."""
    print(_MARK + json.dumps(value), flush=True)  # noqa: T201 - stdout is the way back
