"""The random streams of the data: one for each use of a job's seed, none touching another."""

from typing import Literal

import numpy as np

#: 1 is the order of the rows, in sumgrad.cluster.planning.plan.
_KEYS = {"test": 2, "validation": 3, "non-digits": 4}


def generator_for(
    seed: int, use: Literal["test", "validation", "non-digits"]
) -> np.random.Generator:
    """The random stream of one use of a job's seed."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(_KEYS[use],))
    return np.random.Generator(np.random.Philox(sequence))
