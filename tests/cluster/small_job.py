"""The parts of the small job that the tests share."""

from dataclasses import dataclass

from sumgrad.cluster.compute.worker import Workload
from sumgrad.model.network import Network
from sumgrad.model.validation import Array


@dataclass(frozen=True)
class SmallJob:
    """A network, what workers are given, and weights to start from."""

    network: Network
    workload: Workload
    W: Array
