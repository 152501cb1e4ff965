"""The result of a run: the JSON object for scripts and the lines for users."""

import json
import math
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sumgrad.cluster.training.state import Evaluation
from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.runs.progress import describe_evaluation
from sumgrad.jobs.spec.loader import default_output
from sumgrad.jobs.spec.schema import TrackingSpec
from sumgrad.jobs.support.files import expand_user
from sumgrad.jobs.support.redaction import is_redacted, redact
from sumgrad.jobs.support.text import duration, plural

#: The keys of ``--json``, in this order; scripts rely on them.
JSON_KEYS = (
    *("run_id", "status", "stop_reason", "epochs", "steps", "instances_seen"),
    *("train_loss", "validation_loss", "test_accuracy", "weights_sha256", "checkpoint"),
    *("tracking_uri", "wall_s", "samples_per_s"),
)

_OUTCOMES = {
    StopReason.CONVERGED: "converged",
    StopReason.EARLY_STOPPING: "stopped early (the validation loss no longer fell)",
    StopReason.MAX_EPOCHS: "stopped",
    StopReason.DIVERGED: "diverged",
    StopReason.INTERRUPTED: "was interrupted",
    StopReason.TERMINATED: "was terminated",
    StopReason.FAILED: "failed",
}


@dataclass
class Summary:
    """The result of a training run; None where a figure does not apply."""

    name: str
    status: str  #: FINISHED, FAILED or KILLED, as in MLflow.
    stop_reason: StopReason
    tracking_uri: str
    run_id: str | None = None
    epochs: int = 0
    steps: int = 0
    instances_seen: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    test: Evaluation | None = None
    weights_sha256: str | None = None
    model_folder: str | None = None  #: The folder of the saved model, ``checkpoint`` in JSON.
    wall_s: float = 0.0
    samples_per_s: float | None = None
    best_epoch: int | None = None  #: The epoch of the saved weights, if it is not the last one.
    run_folder: str | None = None
    can_resume: bool = False
    is_delivered: bool = True  #: Whether MLflow has all of the run.
    rejection: list[str] = field(default_factory=list)  #: Lines about rejected rows.

    @property
    def test_accuracy(self) -> float | None:
        """The accuracy over the test rows."""
        return self.test.accuracy if self.test else None

    def to_json(self) -> str:
        """Return the object of ``--json`` on one line."""
        fields = {"checkpoint": "model_folder"}
        values: dict[str, Any] = {key: getattr(self, fields.get(key, key)) for key in JSON_KEYS}
        for key, value in values.items():
            # JSON has no NaN and no infinity.
            if isinstance(value, float) and not math.isfinite(value):
                values[key] = None
        return json.dumps(values, allow_nan=False)

    def lines(self, *, show_next_commands: bool = True) -> list[str]:
        """Return lines; the client of a submitted job prints its own next commands."""
        epochs = plural(self.epochs, "epoch")
        if self.stop_reason is StopReason.MAX_EPOCHS:
            epochs += ", the maximum"
        steps = plural(self.steps, "step")
        time = duration(self.wall_s) if self.wall_s >= 60 else f"{self.wall_s:.1f} s"
        lines = [f"{self.name} {_OUTCOMES[self.stop_reason]} after {epochs} ({steps}) in {time}"]
        if self.samples_per_s:
            rate = f"{self.samples_per_s:,.0f} rows/s"
            lines.append(f"  steps     {rate}, without start and evaluations")
        if self.best_epoch is not None:
            lines.append(f"  kept      the weights of epoch {self.best_epoch}, the best so far")
        if self.test is not None:
            lines.append(f"  test      {describe_evaluation(self.test)}")
        lines.extend(f"  {line}" for line in self.rejection)
        if self.model_folder:
            lines.append(f"  sha256    {self.weights_sha256}")
            lines.append(f"  model     {relative_to_cwd(self.model_folder)}")
        if self.run_id:
            lines.append(f"  run       {self.run_id} in {relative_to_cwd(self.tracking_uri)}")
        return lines + self._next_commands() if show_next_commands and self.run_id else lines

    def _next_commands(self) -> list[str]:
        """Return the next useful commands, as they can be typed in the current folder."""
        run, store = self._run_argument(), self._store_option()
        lines = [f"Resume it:               sumgrad resume {run}"] if self.can_resume else []
        if not self.is_delivered:
            return [*lines, f"Deliver it to MLflow:    sumgrad sync {run}"]
        model = f"{shlex.quote(relative_to_cwd(self.model_folder or ''))} FILE"
        if store is not None:
            lines.append(f"Compare runs in MLflow:  sumgrad ui{store}")
            model = f"{self.run_id} FILE{store}"
        if self.stop_reason in (StopReason.DIVERGED, StopReason.FAILED):
            return lines
        return [*lines, f"Predict with it:         sumgrad predict {model}"]

    def _run_argument(self) -> str:
        """Return the id if the run is in the default folder, else its folder."""
        folder = Path(self.run_folder) if self.run_folder else None
        if folder is None or folder.parent == expand_user(default_output()).absolute():
            return self.run_id or ""
        return shlex.quote(relative_to_cwd(str(folder)))

    def _store_option(self) -> str | None:
        """Return the option that names the store: empty for the default; None if it is secret."""
        default = os.environ.get("MLFLOW_TRACKING_URI") or TrackingSpec().uri
        try:
            is_default = redact(resolve_tracking_uri(default, Path.cwd())) == self.tracking_uri
        except SpecError:
            is_default = False
        if is_default:
            return ""
        if is_redacted(self.tracking_uri):
            return None
        return f" --tracking-uri {shlex.quote(relative_to_cwd(self.tracking_uri))}"


def relative_to_cwd(path_or_uri: str) -> str:
    """Return a path or a SQLite URI relative to the current folder, if it is below it."""
    prefix = "sqlite:///" if path_or_uri.startswith("sqlite:///") else ""
    path = Path(path_or_uri.removeprefix(prefix))
    if not path.is_relative_to(Path.cwd()):
        return path_or_uri
    return f"{prefix}{path.relative_to(Path.cwd())}"
