"""A submitted job on the cluster: settled in a folder that outlives it, run, gone on with.

Everything that the job leaves stands in one folder of the cluster, from which a later attempt goes
on::

    $SUMGRAD_OUTPUT/<job id>/     by default ~/sumgrad/<job id>
        spec.yaml                 what its owner said
        data/                     what was uploaded
        runs/<run id>/            see sumgrad.jobs.runs.directory
"""

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.errors import RunNotFound, SubmissionError
from sumgrad.jobs.runs.directory import RunDirectory, all_runs
from sumgrad.jobs.runs.launch_options import LaunchOptions
from sumgrad.jobs.runs.progress import PlainReporter
from sumgrad.jobs.runs.sync import sync
from sumgrad.jobs.runs.training import resume, train
from sumgrad.jobs.service.client.data_paths import ROLES, file_url_paths
from sumgrad.jobs.service.host.heartbeat import HeartbeatReporter
from sumgrad.jobs.service.ids import FOLDER_TAG, JOB_TAG, check_job_id
from sumgrad.jobs.service.manifest import DATA_FOLDER, RESULT_PREFIX, JobManifest
from sumgrad.jobs.service.versions import Versions, check_versions
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.schema import JobSpec

OUTPUT = "SUMGRAD_OUTPUT"
SPEC = "spec.yaml"
RUNS = "runs"
#: A job that was handed in waits for room until there is some, unless its spec says how long.
WAIT_S = 30 * 86_400.0


def run(request: JobManifest) -> int:
    """Run a job, or go on with it.

    Returns:
        0; whatever else becomes of it is raised.
    """
    here = Versions.here()
    print(  # noqa: T201 - the log is for people
        f"job {request.job_id}, attempt {request.attempt}, on {socket.gethostname()}: "
        f"sumgrad {here.sumgrad}{' of the submitter' if request.has_code else ''}",
        flush=True,
    )
    home = job_folder(request.job_id)
    if request.attempt == 1:
        _settle(request, home)
    # The job is kept before, so that it can be gone on with.
    check_versions(
        request.versions,
        here,
        has_code=request.has_code,
        allow_mismatch=request.allow_version_mismatch,
    )
    spec = spec_of(home, request.overrides)
    reporter = HeartbeatReporter(PlainReporter(sys.stdout, every_s=1.0), request.attempt)
    hosting = LaunchOptions(
        tags={JOB_TAG: request.job_id, FOLDER_TAG: str(home), **request.tags},
        waits_for_nodes=True,
        on_start=lambda tracker: reporter.start(tracker.set_tags),
    )
    earlier = _earlier_run(home) if request.attempt > 1 else None
    if earlier is not None and _is_only_untold(earlier):
        return _tell_mlflow(earlier, spec)
    try:
        if earlier is None:
            summary, failure = train(spec, reporter, hosting)
        else:
            summary, failure = resume(earlier, spec, reporter, hosting)
    finally:
        reporter.stop()
    for line in summary.lines(show_next_commands=False):
        reporter.note(line)
    print(RESULT_PREFIX + summary.to_json(), flush=True)  # noqa: T201
    if failure is not None:
        raise failure
    return 0


def _is_only_untold(run: RunDirectory) -> bool:
    """Whether a run came to its end, and MLflow does not know all of it."""
    ending = run.record.end
    return ending is not None and not ending.can_resume and not run.is_delivered


def _tell_mlflow(run: RunDirectory, spec: JobSpec) -> int:
    """Deliver what MLflow lacks of a run; gives the exit code."""
    uri = resolve_tracking_uri(spec.tracking.uri, Path.cwd())
    is_complete = sync(run, uri)
    said = "MLflow knows everything now" if is_complete else "MLflow does not know everything yet"
    print(f"the run came to its end before; {said}", flush=True)  # noqa: T201
    return 0 if is_complete else 3


def job_folder(job_id: str) -> Path:
    """A job's folder on the cluster.

    Raises:
        SubmissionError: The id is none, and might lead elsewhere.
    """
    base = Path(os.environ.get(OUTPUT) or "~/sumgrad").expanduser().absolute()
    return base / check_job_id(job_id)


def _settle(request: JobManifest, home: Path) -> None:
    """Put a new job's spec and data where they outlive the folder that Ray has unpacked.

    Raises:
        SubmissionError: The folder is another job's.
        OSError: It cannot be written.
    """
    if (home / RUNS).is_dir() and any((home / RUNS).iterdir()):
        raise SubmissionError(
            f"{home} has runs of an earlier job of that id",
            hint="'sumgrad delete' leaves a job's folder: hand this one in under another --id, or "
            "remove that folder on the cluster's head",
        )
    home.mkdir(parents=True, exist_ok=True)
    (home / SPEC).write_text(request.spec_yaml or "", encoding="utf-8")
    if Path(DATA_FOLDER).is_dir():
        shutil.copytree(DATA_FOLDER, home / DATA_FOLDER, dirs_exist_ok=True)


def spec_of(home: Path, overrides: tuple[str, ...] = ()) -> JobSpec:
    """The job's spec, with this cluster's defaults and this machine's paths.

    Raises:
        SpecError: It does not fit this version of sumgrad.
        RunNotFound: The cluster has lost it.
    """
    if not (home / SPEC).is_file():
        raise RunNotFound(
            f"the cluster's head has no folder {home}, so there is nothing to go on with",
            hint=f"{OUTPUT} on the head has to name a disk that outlives it",
        )
    spec = load_spec(str(home / SPEC), overrides).spec
    dumped = spec.data.model_dump()
    uploaded = {
        role: str(home / source)
        for role in ROLES
        if isinstance(source := dumped[role], str) and source.startswith(f"{DATA_FOLDER}/")
    }
    data = spec.data.model_copy(update={**uploaded, **file_url_paths(dumped)})
    cluster: dict[str, Any] = {"address": "auto"}
    if "resource_timeout" not in spec.cluster.model_fields_set:
        cluster["resource_timeout"] = WAIT_S
    changed: dict[str, Any] = {
        "data": data,
        "cluster": spec.cluster.model_copy(update=cluster),
        "tracking": spec.tracking.model_copy(update=_tracking(spec, home)),
        "output": str(home / RUNS),
    }
    return spec.model_copy(update=changed)


def _tracking(spec: JobSpec, home: Path) -> Mapping[str, str]:
    """Without a server, one database for all jobs of this head."""
    if "uri" in spec.tracking.model_fields_set:
        return {}
    return {"uri": f"sqlite:///{home.parent / 'mlflow.db'}"}


def _earlier_run(home: Path) -> RunDirectory | None:
    """The newest run of a job; None if it never began one."""
    return next(iter(all_runs(home / RUNS)), None)
