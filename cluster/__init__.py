"""Ray workers and the parameter driver: plans steps, adds exact sums, owns the weights.

Knows neither MLflow nor PyArrow. Data reaches it as a `ShardSource`, reports leave it through
callbacks. Ray is imported only where it is used, so that `inline` runs without it.
"""

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource, ShardSource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.base import Exchange, InlineExchange
from sumgrad.cluster.training.driver import ParameterDriver, Recipe
from sumgrad.cluster.training.state import EpochReport, Evaluation, Outcome, Snapshot, TrainingState
from sumgrad.cluster.training.stopping import EarlyStopping, StopReason, StopRule

__all__ = [
    "ArraySource",
    "EarlyStopping",
    "EpochReport",
    "Evaluation",
    "Exchange",
    "InlineExchange",
    "Outcome",
    "ParameterDriver",
    "Plan",
    "Recipe",
    "ShardSource",
    "Snapshot",
    "StopReason",
    "StopRule",
    "Task",
    "TrainingState",
    "Workload",
]
