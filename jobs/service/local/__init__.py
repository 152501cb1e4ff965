"""A Ray cluster and an MLflow server on this machine (`sumgrad cluster up`)."""
