"""Workers and the parameter driver: plan steps, reduce gradients, own the weights.

The package knows neither MLflow nor PyArrow. Data reaches it as a `DataSource`, reports leave it
through callbacks. Only `ray_backend` imports Ray, so `inline` runs without it.
"""
