"""Gradient checks: analytic gradients compared with finite differences in float64."""
