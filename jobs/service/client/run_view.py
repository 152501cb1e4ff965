"""A job's run in MLflow, as seen from the user's machine."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.config.tracking_uri import is_server, resolve_tracking_uri
from sumgrad.jobs.errors import SpecError, TrackingError
from sumgrad.jobs.service.heartbeat import TAG, Heartbeat
from sumgrad.jobs.service.ids import CLUSTER_CODE, CODE_KEY, FOLDER_TAG, JOB_TAG, is_job_id
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.text import one_line
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.model.errors import SumgradError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
TIMEOUT_S = 20.0  #: Seconds for MLflow to answer; its own client would wait for a minute.
_DELETED_TAG = "sumgrad.deleted"  #: Whether the job was deleted from its cluster.
_REASON_TAG = "sumgrad.stop_reason"  #: Written by `sumgrad.jobs.runs` when a run ends.
_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_MAX_RUNS = 1000
_MAX_ATTEMPTS = 1_000_000


@dataclass(frozen=True)
class RunView:
    """What MLflow knows about a job; texts come from tags, which other programs can write."""

    uri: str = ""  #: The URI of the store, without secrets; empty if it is not known here.
    #: The id of the job's newest run, as commands print it; None if it has none.
    run_id: str | None = None
    status: str | None = None  #: RUNNING, FINISHED, FAILED or KILLED.
    heartbeat: Heartbeat | None = None
    problem: str = ""  #: Why MLflow could not be asked; empty if it could.
    stop_reason: str = ""
    name: str = ""  #: The name of the job's spec.
    folder: str = ""  #: The job's folder on the cluster's head.
    is_deleted: bool = False  #: Whether the job was deleted from its cluster.
    has_sent_code: bool = True  #: Whether the job runs the code of the machine that submitted it.
    mlflow_run_id: str = ""

    @property
    def attempt(self) -> int | None:
        """Number of the attempt that sent the newest heartbeat; None if it is not known."""
        number = self.heartbeat.attempt if self.heartbeat else 0
        return number if 0 < number < _MAX_ATTEMPTS else None

    @property
    def can_resume(self) -> bool | None:
        """Whether a failed run can be resumed; None if MLflow does not know."""
        if self.status != "FAILED" or not self.stop_reason:
            return None
        # Every other failure, such as a full disk, leaves checkpoints that can be resumed.
        return self.stop_reason != StopReason.DIVERGED

    @property
    def page(self) -> str | None:
        """The run's page; None if its store is not a server."""
        if not self.mlflow_run_id or not is_server(self.uri):
            return None
        return f"{self.uri}/#/runs/{self.mlflow_run_id}"


def find_run(cluster: Cluster, job_id: str) -> RunView:
    """Return the newest run of a job; a problem with MLflow becomes part of the result."""
    return find_runs(cluster, job_id)[job_id]


def find_runs(cluster: Cluster, job_id: str | None = None) -> Mapping[str, RunView]:
    """Return the newest run of all jobs that MLflow knows, or of one.

    Every other job id has a `RunView` without a run, with the problem if MLflow could not be asked.
    """
    uri, problem = redact(cluster.tracking_uri or ""), ""
    views: dict[str, RunView] = {}
    try:
        found = _query(cluster, lambda client: _search(client, job_id))
        uri = redact(resolve_tracking_uri(cluster.tracking_uri or "", Path.cwd()))
        views = {job_id: _view(uri, run) for job_id, run in found.items()}
    except (TrackingError, SpecError) as error:
        problem = error.message
    return defaultdict(lambda: RunView(uri=uri, problem=problem), views)


def mark_deleted(cluster: Cluster, run: RunView) -> None:
    """Record in MLflow that a job was deleted, or raise `TrackingError`."""
    if run.problem:
        raise TrackingError(run.problem)
    if run.mlflow_run_id:
        _query(cluster, lambda client: client.set_tag(run.mlflow_run_id, _DELETED_TAG, "true"))


def _query(cluster: Cluster, question: "Callable[[MlflowClient], T]") -> T:
    """Return what MLflow answers within `TIMEOUT_S`, or raise `SpecError` or `TrackingError`."""
    if cluster.tracking_uri is None:
        problem = "the address of the cluster's MLflow is not known here"
        raise TrackingError(f"{problem} (set MLFLOW_TRACKING_URI, or the cluster's tracking_uri)")
    uri = resolve_tracking_uri(cluster.tracking_uri, Path.cwd())

    def work() -> T:
        from sumgrad.jobs.tracking.store import open_store, tracking_error

        store = open_store(uri, cluster.login)
        from mlflow.exceptions import MlflowException

        try:
            return question(store.client)
        except (MlflowException, OSError) as error:
            problem = f"{redact(uri)} cannot be queried"
            raise tracking_error(problem, error, uri, cluster.login) from error

    try:
        return run_in_thread("mlflow", work).result(TIMEOUT_S)
    except TimeoutError:
        raise TrackingError(f"{redact(uri)} has not answered in {TIMEOUT_S:g} s") from None
    except SumgradError:
        raise
    except Exception as error:
        # MLflow's client raises errors of any kind where another server answers.
        raise TrackingError(f"the server at {redact(uri)} is no MLflow server") from error


def _search(client: "MlflowClient", job_id: str | None) -> Mapping[str, "Run"]:
    """Return the newest run of each job, or of one."""
    runs = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"tags.`{JOB_TAG}` " + (f"= '{job_id}'" if job_id else "LIKE '%'"),
        max_results=_MAX_RUNS,
        order_by=["attributes.start_time DESC"],
    )
    found: dict[str, Run] = {}
    for run in runs:
        tag = run.data.tags[JOB_TAG]
        # Every user of MLflow can write the tag, also with control sequences for terminals.
        if is_job_id(tag):
            found.setdefault(tag, run)
    return found


def _view(uri: str, run: "Run") -> RunView:
    tags = run.data.tags
    # Users can rename a run on MLflow's page; commands accept MLflow's own id as well.
    name = run.info.run_name or ""
    return RunView(
        uri=uri,
        run_id=name if _RUN_ID.fullmatch(name) else str(run.info.run_id),
        status=str(run.info.status),
        heartbeat=Heartbeat.from_json(tags.get(TAG, "")),
        stop_reason=tags.get(_REASON_TAG, ""),
        name=one_line(run.data.params.get("name", "")),
        folder=one_line(tags.get(FOLDER_TAG, "")),
        is_deleted=_DELETED_TAG in tags,
        has_sent_code=tags.get(CODE_KEY) != CLUSTER_CODE,
        mlflow_run_id=str(run.info.run_id),
    )
