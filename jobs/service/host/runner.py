"""A submitted job on the cluster: its folder there, and its runs.

Everything that a job leaves is in one folder, which outlives the job's process and from which later
attempts resume::

    $SUMGRAD_OUTPUT/<job id>/     by default ~/sumgrad/<job id>
        spec.yaml                 what the user set
        data/                     uploaded data
        runs/<run id>/            see sumgrad.jobs.runs.directory
"""

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from sumgrad.jobs.errors import RunNotFound, SubmissionError
from sumgrad.jobs.runs.directory import RunDirectory, run_folders
from sumgrad.jobs.runs.training import LaunchOptions, resume, train
from sumgrad.jobs.service.heartbeat import HeartbeatReporter
from sumgrad.jobs.service.ids import CODE_KEY, FOLDER_TAG, JOB_TAG, check_job_id
from sumgrad.jobs.service.manifest import DATA_FOLDER, FILE_SCHEME, RESULT_PREFIX, JobManifest
from sumgrad.jobs.service.versions import Versions, check_versions
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.files import expand_user
from sumgrad.jobs.support.logs import logs_through

OUTPUT_VARIABLE = "SUMGRAD_OUTPUT"
SPEC_FILE, RUNS_FOLDER = "spec.yaml", "runs"
#: A submitted job waits for free CPUs for 30 days, unless its spec has another timeout.
RESOURCE_TIMEOUT_S = 30 * 86_400.0


def run(manifest: JobManifest) -> None:
    """Run an attempt of a job: train, resume, or deliver what MLflow lacks, or raise its error."""
    versions = Versions.here()
    attempt = f"job {manifest.job_id}, attempt {manifest.attempt}, on {socket.gethostname()}"
    origin = " of the submitter" if manifest.has_code else ""
    _print(f"{attempt}: sumgrad {versions.sumgrad}{origin}")
    folder = job_folder(manifest.job_id)
    if manifest.attempt == 1:
        _create_folder(manifest, folder)
    # After the folder was written, so that a job which is refused here can be resumed.
    check_versions(
        manifest.versions,
        versions,
        has_code=manifest.has_code,
        allow_mismatch=manifest.allow_version_mismatch,
    )
    _train(manifest, folder)


def _train(manifest: JobManifest, folder: Path) -> None:
    """Train, or resume or deliver the earlier run, and print the result."""
    spec = load_job_spec(folder, manifest.overrides)
    # A damaged run is an error: training would start again from the first step.
    runs = [RunDirectory.open(path) for path in run_folders(folder / RUNS_FOLDER)]
    earlier = max(runs, key=lambda run: run.record.started, default=None)
    reporter = HeartbeatReporter(sys.stdout, manifest.attempt)
    tags = {JOB_TAG: manifest.job_id, FOLDER_TAG: str(folder), CODE_KEY: manifest.code}
    options = LaunchOptions(
        tags={**tags, **manifest.tags},
        waits_for_nodes=True,
        allow_code_change=manifest.allow_code_change,
        on_start=lambda tracker: reporter.start(tracker.set_tags),
    )
    try:
        with logs_through(reporter.note):
            if earlier is None:
                summary, error = train(spec, reporter, options)
            else:
                summary, error = resume(earlier, spec, reporter, options)
    finally:
        reporter.stop()
    for line in (*summary.lines(show_next_commands=False), RESULT_PREFIX + summary.to_json()):
        _print(line)
    if error is not None:
        raise error


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - Ray keeps stdout as the job's log


def job_folder(job_id: str) -> Path:
    """Return a job's folder; raise `SubmissionError` for an id that might lead to another one."""
    base = expand_user(os.environ.get(OUTPUT_VARIABLE) or "~/sumgrad").absolute()
    return base / check_job_id(job_id)


def _create_folder(manifest: JobManifest, folder: Path) -> None:
    """Copy a new job's spec and data from the working folder, which Ray will delete.

    Raise `SubmissionError` if the job's folder belongs to another job.
    """
    if (folder / RUNS_FOLDER).is_dir() and any((folder / RUNS_FOLDER).iterdir()):
        raise SubmissionError(
            f"{folder} has runs of an earlier job with this id",
            hint="'sumgrad delete' keeps a job's folder: submit this job with another --id, or "
            "remove that folder on the cluster's head",
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC_FILE).write_text(manifest.spec_yaml or "", encoding="utf-8")
    if Path(DATA_FOLDER).is_dir():
        shutil.copytree(DATA_FOLDER, folder / DATA_FOLDER, dirs_exist_ok=True)


def load_job_spec(folder: Path, overrides: tuple[str, ...] = ()) -> JobSpec:
    """Return a job's spec with the cluster's defaults and paths.

    Raises:
        SpecError: The spec is not valid for this version of sumgrad.
        RunNotFound: The cluster has lost the folder.
    """
    if not (folder / SPEC_FILE).is_file():
        raise RunNotFound(
            f"the cluster's head has no folder {folder}, so there is nothing to resume",
            hint=f"{OUTPUT_VARIABLE} on the head has to name a disk that outlives it",
        )
    spec = load_spec(str(folder / SPEC_FILE), overrides).spec
    cluster: dict[str, Any] = {"address": "auto"}
    if "resource_timeout" not in spec.cluster.model_fields_set:
        cluster["resource_timeout"] = RESOURCE_TIMEOUT_S
    tracking = {}
    if "uri" not in spec.tracking.model_fields_set:
        # Without a server, all jobs of this head share one database.
        tracking["uri"] = f"sqlite:///{folder.parent / 'mlflow.db'}"
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update=_paths_on_head(spec, folder)),
            "cluster": spec.cluster.model_copy(update=cluster),
            "tracking": spec.tracking.model_copy(update=tracking),
            "output": str(folder / RUNS_FOLDER),
        }
    )


def _paths_on_head(spec: JobSpec, folder: Path) -> dict[str, str]:
    """Return uploaded data, in the job's folder, and ``file://`` sources as paths, by split."""
    paths = {}
    for split, source in spec.data.sources.items():
        if source.startswith(f"{FILE_SCHEME}/"):
            paths[split] = source.removeprefix(FILE_SCHEME)
        elif source.startswith(f"{DATA_FOLDER}/"):
            paths[split] = str(folder / source)
    return paths
