"""The mathematics of sumgrad: pure NumPy, no I/O, no Ray.

It follows a lecture on back-propagation; docs/mathematics.md maps each equation to its code.
"""

from sumgrad.model.activations import ACTIVATIONS, Activation, ScalarActivation, make_activation
from sumgrad.model.divergences import DIVERGENCES, Divergence, resolve_divergence
from sumgrad.model.errors import ModelError, OptionError, ShapeError, SumgradError
from sumgrad.model.gradcheck.check import GradientCheck, check_gradients
from sumgrad.model.initializers import (
    INITIALIZERS,
    Initializer,
    initial_parameters,
    make_initializer,
)
from sumgrad.model.network import Cache, EvaluationSum, GradientSum, Layer, Network
from sumgrad.model.optimizers import OPTIMIZERS, Optimizer, make_optimizer
from sumgrad.model.parameters import Layout, Parameters, weights_sha256
from sumgrad.model.schedules import SCHEDULES, Schedule

__all__ = [
    "ACTIVATIONS",
    "DIVERGENCES",
    "INITIALIZERS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Activation",
    "Cache",
    "Divergence",
    "EvaluationSum",
    "GradientCheck",
    "GradientSum",
    "Initializer",
    "Layer",
    "Layout",
    "ModelError",
    "Network",
    "Optimizer",
    "OptionError",
    "Parameters",
    "ScalarActivation",
    "Schedule",
    "ShapeError",
    "SumgradError",
    "check_gradients",
    "initial_parameters",
    "make_activation",
    "make_initializer",
    "make_optimizer",
    "resolve_divergence",
    "weights_sha256",
]
