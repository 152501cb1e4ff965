"""The cluster's side of a submitted job: the process that runs it."""
