"""Train neural networks on Ray workers; the same job gives the same weights, bit for bit.

`sumgrad.model` holds the mathematics, `sumgrad.cluster` the distributed engine, and `sumgrad.jobs`
job specs, data, tracking and the command line.
"""

__all__: list[str] = []
