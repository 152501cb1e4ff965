"""The parts of the small job that the tests share."""

from dataclasses import dataclass

from cluster.worker import Workload
from model.checks import Array
from model.network import Network


@dataclass(frozen=True)
class SmallJob:
    """A network, what workers are given, and weights to start from."""

    network: Network
    workload: Workload
    W: Array
