"""A gradient reducer whose workers are actors of a Ray cluster."""

from collections.abc import Mapping

from ray.exceptions import RayError

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend.launcher import RayLauncher, error_cause
from sumgrad.cluster.ray_backend.placement import acquire_placement
from sumgrad.cluster.ray_backend.watchdog import DaemonWatch
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy


class RayReducer(ProcessReducer):
    """A reducer whose workers are Ray actors, on the cluster that this process is connected to.

    On this node each worker has one CPU; on another node one worker has all CPUs of the start.
    `env_vars` is the environment of their processes, if they do not inherit this one's.
    """

    def __init__(
        self,
        workload: Workload,
        max_cpus: int,
        *,
        env_vars: Mapping[str, str] | None = None,
        policy: ScalingPolicy = ScalingPolicy(),  # noqa: B008 - it is frozen
    ) -> None:
        watch = DaemonWatch.current
        try:
            placement = acquire_placement(max_cpus, policy, is_shared=watch is None)
        except RayError as error:
            raise ClusterUnreachable(f"the cluster grants no CPUs: {error_cause(error)}") from error
        try:
            launcher = RayLauncher(workload, placement, env_vars, watch)
        except BaseException:
            placement.close()
            raise
        super().__init__(workload, placement, launcher, policy)
