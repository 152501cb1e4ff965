"""Everything about MLflow: delivering runs to a store, and finding their models there.

Training appends to files in the run's directory, the *outbox* (`outbox`). A process beside training
(`mlflow_process`, supervised by `run_tracker`) delivers them with `delivery`, and `sumgrad sync`
does the same for runs that have ended. MLflow itself is imported only where it is used.
"""
