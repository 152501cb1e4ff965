"""Workers and the parameter driver: plan steps, reduce gradients, own the weights.

The package knows neither MLflow nor PyArrow. Data reaches it as a `DataSource`, reports leave it
through callbacks. Only `ray_backend` imports Ray, so `inline` runs without it.
"""

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource, DataSource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import (
    EpochReport,
    Evaluation,
    Snapshot,
    TrainingResult,
    TrainingState,
)
from sumgrad.cluster.training.stopping import EarlyStopping, StopReason, StopRule

__all__ = [
    "ArraySource",
    "DataSource",
    "EarlyStopping",
    "EpochReport",
    "Evaluation",
    "GradientReducer",
    "InlineReducer",
    "ParameterDriver",
    "Plan",
    "Snapshot",
    "StopReason",
    "StopRule",
    "Task",
    "TrainingConfig",
    "TrainingResult",
    "TrainingState",
    "Workload",
]
