"""A job's run in MLflow, as it is seen from here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.config.tracking_uri import is_server, resolve_tracking_uri
from sumgrad.jobs.errors import SpecError, TrackingError
from sumgrad.jobs.runs.record import in_one_line
from sumgrad.jobs.service.host.heartbeat import TAG, Heartbeat
from sumgrad.jobs.service.ids import JOB_TAG, is_job_id
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.model.errors import SumgradError


@dataclass(frozen=True)
class RunView:
    """What MLflow knows of a job.

    Attributes:
        uri: Of the store, without secrets; empty where none is known here.
        run_id: Of the job's newest run; None if it has none.
        status: RUNNING, FINISHED, FAILED or KILLED.
        heartbeat: The job's newest sign of life.
        problem: Why nothing is known, if so.
        stop_reason: Why the run ended, as the job has told MLflow; anybody's words.
        name: Of the job's spec; empty where the run does not say it.
    """

    uri: str = ""
    run_id: str | None = None
    status: str | None = None
    heartbeat: Heartbeat | None = None
    problem: str = ""
    stop_reason: str = ""
    name: str = ""

    @property
    def attempt(self) -> int | None:
        """Which attempt has given the newest sign of life; None if that is not known."""
        number = self.heartbeat.attempt if self.heartbeat else 0
        # A tag is anybody's to write.
        return number if 0 < number < _MOST_ATTEMPTS else None

    @property
    def can_resume(self) -> bool | None:
        """Whether a run that failed left something to go on with; None if MLflow cannot say it."""
        if self.status != "FAILED" or not self.stop_reason:
            return None
        # Whatever else ended it, as a disk that was full, has left its checkpoints.
        return self.stop_reason != StopReason.DIVERGED

    @classmethod
    def unknown(cls, why: str, uri: str = "") -> Self:
        """Nothing is known, and why."""
        return cls(uri=uri, problem=why)


#: MLflow's own client would wait for a minute, in seconds.
PATIENCE_S = 20.0
#: What `sumgrad.jobs.runs.finish` and `sumgrad.jobs.runs.training` say of a run that has ended.
_REASON_TAG = "sumgrad.stop_reason"
#: So many runs are asked for at once, the newest first.
_MOST_RUNS = 1000
_MOST_ATTEMPTS = 1_000_000


def look_up_runs(
    cluster: Cluster, job_ids: Sequence[str], *, others: bool = False
) -> dict[str, RunView]:
    """Ask the cluster's MLflow for the newest run of each job.

    Whatever goes wrong is said by what is given, and not raised.

    Args:
        cluster: Whose MLflow.
        job_ids: Which jobs.
        others: Give also the jobs that are not named.
    """
    if not job_ids and not others:
        return {}
    if cluster.tracking_uri is None:
        nothing = RunView.unknown(
            "where the cluster's MLflow is, is not known here (MLFLOW_TRACKING_URI, or the "
            "context's tracking_uri)"
        )
        return dict.fromkeys(job_ids, nothing)
    try:
        uri = resolve_tracking_uri(cluster.tracking_uri, Path.cwd())
        found = _ask_in_time(uri, cluster.login, [] if others else job_ids)
    except (TrackingError, SpecError) as error:
        nothing = RunView.unknown(error.message, redact(cluster.tracking_uri))
        return dict.fromkeys(job_ids, nothing)
    named = {job_id: found.get(job_id, RunView(uri=redact(uri))) for job_id in job_ids}
    return {**found, **named} if others else named


def _ask_in_time(uri: str, login: Credentials | None, job_ids: Sequence[str]) -> dict[str, RunView]:
    """What `_ask` gives.

    Raises:
        TrackingError: It takes too long, or the answer is none of MLflow's.
    """
    answer = run_in_thread("mlflow", lambda: _ask(uri, login, job_ids))
    try:
        return answer.result(PATIENCE_S)
    except TimeoutError:
        raise TrackingError(f"{redact(uri)} has not answered in {PATIENCE_S:g} s") from None
    except SumgradError:
        raise
    except Exception as error:
        # MLflow's client raises of every kind where somebody else answers.
        raise TrackingError(f"what answers at {redact(uri)} is no MLflow server") from error


def _ask(uri: str, login: Credentials | None, job_ids: Sequence[str]) -> dict[str, RunView]:
    from sumgrad.jobs.tracking.store import open_store, tracking_error

    store = open_store(uri, login)
    from mlflow.exceptions import MlflowException

    try:
        experiments = [found.experiment_id for found in store.client.search_experiments()]
        runs = store.client.search_runs(
            experiments,
            f"tags.`{JOB_TAG}` {_which(job_ids)}",
            max_results=_MOST_RUNS,
            order_by=["attributes.start_time DESC"],
        )
    except (MlflowException, OSError) as error:
        raise tracking_error(f"{redact(uri)} was asked in vain", error, uri, login) from error
    views: dict[str, RunView] = {}
    for run in runs:
        view = RunView(
            uri=redact(uri),
            run_id=str(run.info.run_id),
            status=str(run.info.status),
            heartbeat=Heartbeat.from_json(run.data.tags.get(TAG, "")),
            stop_reason=run.data.tags.get(_REASON_TAG, ""),
            # A parameter stays what it was; the run itself may get another name on MLflow's page.
            name=in_one_line(run.data.params.get("name", "")),
        )
        job_id = run.data.tags[JOB_TAG]
        # Whoever may write runs may write any text there, also what a terminal takes for orders.
        if is_job_id(job_id):
            views.setdefault(job_id, view)
    return views


def _which(job_ids: Sequence[str]) -> str:
    """MLflow's search knows no list of tags."""
    return f"= '{job_ids[0]}'" if len(job_ids) == 1 else "LIKE '%'"


def page_of(view: RunView) -> str | None:
    """Where a person sees the run, if its store is a server."""
    if view.run_id is None or not is_server(view.uri):
        return None
    return f"{view.uri}/#/runs/{view.run_id}"
