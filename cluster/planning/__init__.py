"""Plans of steps: who computes which microbatches, and how their sums are combined; no I/O."""
