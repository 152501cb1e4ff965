"""A Ray cluster of several nodes on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray._raylet import Config  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster

from sumgrad.cluster.ray_backend import patches
from sumgrad.cluster.ray_backend.session import ensure_token_file


@contextmanager
def ray_cluster(cpus: int, more_nodes: int = 0) -> Iterator[Cluster]:
    """Run a head and more nodes, each with this number of CPUs.

    They require a token, because Ray keeps the mode of a process's first session: after a local
    instance, which requires one, the driver would refuse a cluster without and lose its actors.
    """
    ensure_token_file()
    os.environ["RAY_AUTH_MODE"] = "token"
    # Ray has read its environment when it was imported.
    Config.initialize("")
    with patches.only_needed_daemons(enabled=True):
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False}
        )
        try:
            for _ in range(more_nodes):
                cluster.add_node(num_cpus=cpus)
            yield cluster
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]
