"""Trained models on disk, and the pyfunc model that MLflow loads."""
