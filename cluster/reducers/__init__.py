"""Reducers: parameters go out to the workers, one deterministic sum comes back."""
