"""Plans of steps: assigns microbatches to workers and defines how sums are reduced; no I/O."""
