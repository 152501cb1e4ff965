"""The training loop: driver, state and stopping rules."""
