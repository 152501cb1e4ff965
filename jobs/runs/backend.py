"""Where a job's gradients are computed: in this process, on this machine, or on a cluster."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.ray_backend.session import WORKER_ENVIRONMENT, ray_session, usable_cpus
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.jobs.runs.build import TrainingJob
from sumgrad.jobs.runs.signals import StopRequest
from sumgrad.jobs.spec.schema import ClusterSpec

_logger = logging.getLogger(__name__)

LOCAL_ADDRESSES = ("inline", "local")  #: Addresses that no other job shares.


@contextmanager
def open_reducer(
    spec: ClusterSpec, job: "Future[TrainingJob]", stop: StopRequest, *, waits_for_nodes: bool
) -> Iterator[GradientReducer]:
    """Run the reducer at the spec's address; Ray starts while the job is still being built.

    A stop request ends a wait for CPUs, also for those of nodes that the cluster does not have yet.
    It raises `Interrupted` instead of the cluster's error.
    """
    wanted = spec.worker_range
    if spec.address == "inline":
        threads = max(wanted.min, min(usable_cpus(), wanted.max or usable_cpus()))
        with InlineReducer(job.result().workload, threads) as reducer:
            yield reducer
        return
    session = ray_session(
        spec.address, wanted.max, min_cpus=wanted.min, waits_for_nodes=waits_for_nodes
    )
    try:
        with session as workers, _ray_reducer(spec, job, stop, workers) as reducer:
            yield reducer
    except ClusterError:
        stop.raise_if_requested()
        raise


def _ray_reducer(
    spec: ClusterSpec, job: "Future[TrainingJob]", stop: StopRequest, workers: int
) -> GradientReducer:
    from sumgrad.cluster.ray_backend.reducer import RayReducer

    # A local Ray has a fixed number of CPUs, and its workers inherit this environment.
    is_local = spec.address == "local"
    wanted = spec.worker_range
    missing = max(0, (wanted.max or 0) - workers)
    if missing:
        more = "" if is_local else "; more join when CPUs become free"
        _logger.info("starting with %s of %s workers%s", workers, wanted.max, more)
    policy = ScalingPolicy(
        min_cpus=wanted.min,
        extra_cpus=0 if is_local else missing,
        resource_timeout=spec.resource_timeout,
        should_stop=lambda: stop.reason is not None,
    )
    env_vars = None if is_local else WORKER_ENVIRONMENT
    return RayReducer(job.result().workload, workers, env_vars=env_vars, policy=policy)
