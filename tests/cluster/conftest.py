"""A small classification job with ragged microbatches, as the cluster's parts see it."""

import numpy as np
import pytest

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.initializers import initial_parameters
from sumgrad.model.network import Layer, Network
from tests.cluster.small_job import SmallJob

ROWS = 107


@pytest.fixture(scope="session")
def small_job() -> SmallJob:
    """107 rows, batches of 40, microbatches of 9: the last of each is ragged."""
    generator = np.random.default_rng(5)
    x = generator.standard_normal((ROWS, 12)).astype(np.float32)
    d = generator.integers(0, 4, ROWS)
    network = Network(
        12,
        (Layer(16, make_activation("tanh")), Layer(4, make_activation("softmax"))),
        MultiClassKL(),
    )
    source = ArraySource(x, d)
    plans = {
        "train": Plan(ROWS, 40, 9, seed=3),
        "full": Plan(ROWS, None, 9),
        "validation": Plan(ROWS, None, 9),
    }
    workload = Workload(network, dict.fromkeys(plans, source), plans)
    return SmallJob(network, workload, initial_parameters(network, seed=1).flat)
