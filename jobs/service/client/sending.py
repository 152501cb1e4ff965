"""Handing a request to Ray: its file, its data and, if need be, sumgrad's own code."""

import tempfile
from pathlib import Path
from typing import Any

from sumgrad.jobs.service.client.data_paths import Upload
from sumgrad.jobs.service.client.preflight import PYTHON
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY, NAME_KEY, submission_id
from sumgrad.jobs.service.manifest import JobManifest
from sumgrad.jobs.support.source_digest import copy_source

#: What is run on the cluster, in a folder that holds the request.
ENTRYPOINT = f"{PYTHON} -P -m sumgrad.jobs.service.host"
#: An upload may take so long besides, by what a slow line carries.
_SLOWEST_BYTES_PER_S = 200_000
_SECONDS = 60.0
_NOTHING = Upload({}, 0)


def metadata_of(request: JobManifest, name: str) -> dict[str, str]:
    """What Ray keeps beside an attempt and shows to everybody who may ask.

    Args:
        request: The attempt.
        name: Of the job's spec.
    """
    return {
        JOB_KEY: request.job_id,
        NAME_KEY: name,
        ATTEMPT_KEY: str(request.attempt),
        "sumgrad.version": request.versions.sumgrad,
    }


def send(
    server: RayJobsClient, request: JobManifest, metadata: dict[str, str], upload: Upload = _NOTHING
) -> str:
    """Have the cluster run a request.

    Returns:
        Ray's name of the attempt.

    Raises:
        ServiceUnreachable: The cluster has not taken it, or its answer got lost.
    """
    name = submission_id(request.job_id, request.attempt)
    with tempfile.TemporaryDirectory(prefix="sumgrad-job-") as temporary:
        folder = Path(temporary, "job")
        folder.mkdir()
        request.write(folder)
        upload.copy(folder)
        runtime_env: dict[str, Any] = {"working_dir": str(folder)}
        if request.has_code:
            modules = Path(temporary, "code")
            modules.mkdir()
            runtime_env["py_modules"] = [str(module) for module in copy_source(modules)]
        seconds = _SECONDS + upload.size / _SLOWEST_BYTES_PER_S
        server.submit(name, ENTRYPOINT, runtime_env, metadata, seconds=seconds)
    return name
