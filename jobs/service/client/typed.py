"""What a command that is printed for a person has to say of its cluster."""

import shlex

from sumgrad.jobs.config.clusters import Cluster, find_selected_cluster
from sumgrad.jobs.errors import ClusterConfigError, SpecError


def cluster_option(cluster: Cluster) -> str:
    """What has to follow a command for it to mean this cluster; empty if it does so anyway.

    Args:
        cluster: Which.
    """
    try:
        is_meant = find_selected_cluster(None) == cluster
    except (ClusterConfigError, SpecError):
        is_meant = False
    return "" if is_meant else f" --cluster {shlex.quote(cluster.option)}"
