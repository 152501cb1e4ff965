"""What a run came to: the promised JSON object, and the lines that a person reads."""

import json
import math
import os
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.loader import default_output
from sumgrad.jobs.spec.schema import TrackingSpec
from sumgrad.jobs.support.redaction import is_redacted, redact

#: The keys of ``--json``, in this order; scripts rely on them.
JSON_KEYS = (
    "run_id",
    "status",
    "stop_reason",
    "epochs",
    "steps",
    "instances_seen",
    "train_loss",
    "validation_loss",
    "test_accuracy",
    "weights_sha256",
    "checkpoint",
    "tracking_uri",
    "wall_s",
    "samples_per_s",
)

_WHY = {
    StopReason.CONVERGED: "converged",
    StopReason.EARLY_STOPPING: "stopped early (the validation loss no longer fell)",
    StopReason.MAX_EPOCHS: "used its budget of epochs",
    StopReason.DIVERGED: "diverged",
    StopReason.INTERRUPTED: "was interrupted",
    StopReason.TERMINATED: "was terminated",
    StopReason.FAILED: "failed",
}


@dataclass
class Summary:
    """The result of a training run; null where something does not apply.

    Attributes:
        name: The job's name.
        status: FINISHED, FAILED or KILLED, as MLflow has it.
        test_loss: Mean divergence over the test rows.
        best_epoch: The epoch that the weights are from, where it is not the last one.
        run_folder: Where the run is kept.
        can_resume: Whether it makes sense to go on with it.
        is_delivered: Whether MLflow knows everything.
        rejection: For a job with a reject class: lines about what it does with non-digits.
    """

    name: str
    status: str
    stop_reason: StopReason
    tracking_uri: str
    run_id: str | None = None
    epochs: int = 0
    steps: int = 0
    instances_seen: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    test_rows: int | None = None
    weights_sha256: str | None = None
    checkpoint: str | None = None
    wall_s: float = 0.0
    samples_per_s: float | None = None
    best_epoch: int | None = None
    run_folder: str | None = None
    can_resume: bool = False
    is_delivered: bool = True
    rejection: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The promised object, on one line."""
        facts: dict[str, Any] = asdict(self)
        # JSON has no NaN and no infinity, and readers choke on Python's.
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in facts.items()
        }
        return json.dumps({key: finite[key] for key in JSON_KEYS}, allow_nan=False)

    def lines(self, *, show_next_commands: bool = True) -> list[str]:
        """For a person.

        Args:
            show_next_commands: Whether to print the next useful commands; the client of a
                submitted job prints its own.
        """
        rate = f", {self.samples_per_s:,.0f} instances/s" if self.samples_per_s else ""
        steps = f"{_count(self.epochs, 'epoch')} ({_count(self.steps, 'step')})"
        lines = [f"{self.name} {_WHY[self.stop_reason]} after {steps} in {self.wall_s:.1f} s{rate}"]
        if self.best_epoch is not None:
            lines.append(f"  kept      the weights of epoch {self.best_epoch}, the best there were")
        if self.test_loss is not None:
            right = f"{self.test_accuracy:.2%} right, " if self.test_accuracy is not None else ""
            lines.append(f"  test      {right}loss {self.test_loss:.4f} on {self.test_rows:,} rows")
        lines.extend(f"  {line}" for line in self.rejection)
        if self.checkpoint:
            lines.append(f"  weights   sha256 {self.weights_sha256}")
            lines.append(f"  model     {relative_to_cwd(self.checkpoint)}")
        if self.run_id:
            lines.append(f"  run       {self.run_id} in {relative_to_cwd(self.tracking_uri)}")
        return lines + self._next_commands() if show_next_commands and self.run_id else lines

    def _next_commands(self) -> list[str]:
        """What may come next, each as it can be typed in the current folder."""
        run, store = self._run_argument(), self._store_option()
        lines = [f"Go on with it:           sumgrad resume {run}"] if self.can_resume else []
        if not self.is_delivered:
            return [*lines, f"Tell MLflow the rest:    sumgrad sync {run}"]
        if store is None:
            return [*lines, f"Predict with it:         sumgrad predict {self._model()} FILE"]
        return [
            *lines,
            f"Compare runs in MLflow:  sumgrad ui{store}",
            f"Predict with it:         sumgrad predict {(self.run_id or '')[:8]} FILE{store}",
        ]

    def _run_argument(self) -> str:
        """The beginning of the id, if the run is where commands look for it; else its folder."""
        folder = Path(self.run_folder) if self.run_folder else None
        if folder is None or folder.parent == Path(default_output()).expanduser().absolute():
            return (self.run_id or "")[:8]
        return shlex.quote(relative_to_cwd(str(folder)))

    def _store_option(self) -> str | None:
        """What names the store, if commands would look in another one; None if nothing may."""
        meant = os.environ.get("MLFLOW_TRACKING_URI") or TrackingSpec().uri
        try:
            is_meant = redact(resolve_tracking_uri(meant, Path.cwd())) == self.tracking_uri
        except SpecError:
            is_meant = False
        if is_meant:
            return ""
        if is_redacted(self.tracking_uri):
            return None
        return f" --tracking-uri {shlex.quote(relative_to_cwd(self.tracking_uri))}"

    def _model(self) -> str:
        return shlex.quote(relative_to_cwd(self.checkpoint or ""))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def relative_to_cwd(place: str) -> str:
    """A path or a SQLite URI as one would type it in the current folder, if it is below it."""
    prefix = "sqlite:///" if place.startswith("sqlite:///") else ""
    path = Path(place.removeprefix(prefix))
    return f"{prefix}{path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else place
