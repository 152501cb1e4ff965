"""A Ray cluster of several nodes on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.cluster_utils import Cluster

from sumgrad.cluster.ray_backend import patches


@contextmanager
def ray_cluster(cpus: int, more_nodes: int = 0) -> Iterator[Cluster]:
    """Run a head and more nodes, each with this number of CPUs."""
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
