"""The mathematics of sumgrad: pure NumPy, no input or output, no Ray.

It follows a lecture on back-propagation; docs/mathematics.md says where each equation stands.
"""

from model.activations import ACTIVATIONS, Activation, ScalarActivation, make_activation
from model.divergences import DIVERGENCES, Divergence, resolve_divergence
from model.errors import ModelError, OptionError, ShapeError, SumgradError
from model.gradcheck import GradientCheck, check_gradients
from model.initializers import INITIALIZERS, Initializer, initial_parameters, make_initializer
from model.network import Cache, EvaluationSum, GradientSum, Layer, Network
from model.optimizers import OPTIMIZERS, Optimizer, make_optimizer
from model.parameters import Layout, Parameters, weights_sha256
from model.schedules import SCHEDULES, Schedule

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
