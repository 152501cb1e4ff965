"""The user-facing layer: job specs, data, tracking, runs, cluster jobs and the command line."""
