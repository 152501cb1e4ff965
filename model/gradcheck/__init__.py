"""Gradient checks: analytic gradients compared with finite differences in float64."""

from sumgrad.model.gradcheck.check import GradientCheck, check_gradients

__all__ = ["GradientCheck", "check_gradients"]
