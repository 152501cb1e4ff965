"""Where a job's steps are computed: in this process, on this machine, or on a cluster."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from sumgrad.cluster.ray_backend.session import WORKER_ENVIRONMENT, ray_session, usable_cpus
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.jobs.runs.job import TrainingJob
from sumgrad.jobs.runs.launch_options import LaunchOptions
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.signals import StopRequest
from sumgrad.jobs.spec.schema import JobSpec

#: Addresses of what nobody else uses.
LOCAL_ADDRESSES = ("inline", "local")


@contextmanager
def open_reducer(
    spec: JobSpec,
    job: "Future[TrainingJob]",
    reporter: Reporter,
    stop: StopRequest,
    options: LaunchOptions,
) -> Iterator[GradientReducer]:
    """An reducer at the place that the spec names."""
    address, wanted = spec.cluster.address, spec.cluster.worker_range
    if address == "inline":
        lanes = max(wanted.min, min(usable_cpus(), wanted.max or usable_cpus()))
        with InlineReducer(job.result().workload, lanes) as reducer:
            yield reducer
        return
    with ray_session(
        address, wanted.max, min_workers=wanted.min, waits_for_nodes=options.waits_for_nodes
    ) as workers:
        from sumgrad.cluster.ray_backend.reducer import RayReducer

        # A local Ray has the CPUs that it has, and its workers inherit this process's environment.
        is_local = address == "local"
        extra = max(0, (wanted.max or 0) - workers)
        if extra:
            reporter.note(
                f"asked for up to {wanted.max} workers, the cluster has {workers} CPUs: begins "
                f"with {workers}" + ("" if is_local else ", and more join when there is room")
            )
        policy = ScalingPolicy(
            min_workers=wanted.min,
            extra_workers=0 if is_local else extra,
            resource_timeout=spec.cluster.resource_timeout,
            should_stop=lambda: stop.requested() is not None,
        )
        env_vars = None if is_local else WORKER_ENVIRONMENT
        with RayReducer(
            job.result().workload, workers, env_vars=env_vars, policy=policy
        ) as reducer:
            yield reducer
