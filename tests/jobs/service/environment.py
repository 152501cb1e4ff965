"""Isolation of tests from the clusters, tokens and caches of the user that runs them."""

from pathlib import Path

import pytest

VARIABLES = (
    *("SUMGRAD_CLUSTER", "SUMGRAD_CONFIG", "SUMGRAD_OUTPUT", "SUMGRAD_PYTHON"),
    *("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_MODE"),
    *("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *("MLFLOW_TRACKING_TOKEN", "SUMGRAD_TRACKING_TOKEN_FILE"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"),
)


def isolate_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an empty home and current folder below a folder, and return the home."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    home, here = folder / "home", folder / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home
