"""Benchmarks: sumgrad against its peers and against the hardware, as ratios within one run."""
