"""Ray workers and the parameter driver: plans steps, adds exact sums, owns the weights.

Knows neither MLflow nor PyArrow. Data reaches it as a `ShardSource`, reports leave it through
callbacks. Ray is imported only where it is used, so that `inline` runs without it.
"""

from cluster.convergence import EarlyStopping, StopReason, StopRule
from cluster.driver import ParameterDriver, Recipe
from cluster.exchange import Exchange, InlineExchange
from cluster.plan import Plan
from cluster.source import ArraySource, ShardSource
from cluster.state import EpochReport, Evaluation, Outcome, Snapshot, TrainingState
from cluster.worker import Task, Workload

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
