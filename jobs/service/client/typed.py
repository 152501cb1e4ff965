"""What a command that is printed for a person has to say of its cluster."""

import shlex

from sumgrad.jobs.config.clusters import Cluster, cluster_if_chosen
from sumgrad.jobs.errors import ContextError, SpecError


def cluster_option(cluster: Cluster) -> str:
    """What has to follow a command for it to mean this cluster; empty if it does so anyway.

    Args:
        cluster: Which.
    """
    try:
        is_meant = cluster_if_chosen(None) == cluster
    except (ContextError, SpecError):
        is_meant = False
    return "" if is_meant else f" --cluster {shlex.quote(cluster.option)}"
