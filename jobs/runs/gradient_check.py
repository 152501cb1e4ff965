"""``sumgrad gradcheck``: check the gradients of a spec's network on its own data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.runs.build import build_initial_parameters, build_network
from sumgrad.jobs.spec.paths import resolve_paths
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.gradcheck.check import GradientCheck, check_gradients
from sumgrad.model.network import Network
from sumgrad.model.random_streams import RandomStream, Stream

_ROWS = 8  #: The number of rows that the gradients are summed over.


def check_spec_gradients(spec: JobSpec, features: int | None = None) -> tuple[GradientCheck, ...]:
    """Check the gradients of a spec's network at its initial weights.

    Given a number of features, random rows are used instead of the job's data.
    """
    if features is None:
        data = prepare(resolve_paths(spec, Path.cwd()))
        network = build_network(spec, data.schema.width)
        x, d = data.train.x[:_ROWS], data.train.d[:_ROWS]
    else:
        network = build_network(spec, features)
        x, d = _random_rows(network, spec.seed)
    parameters = build_initial_parameters(spec, network)
    return check_gradients(network, parameters, x, d, seed=spec.seed)


def _random_rows(network: Network, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return random x (N, D_0) and targets that the network's divergence takes."""
    stream = RandomStream(seed, Stream.GRADIENT_CHECK, index=1)
    x = stream.normal((_ROWS, network.inputs))
    if isinstance(network.divergence, MultiClassKL):
        return x, stream.integers(network.outputs, _ROWS)
    return x, stream.integers(2, (_ROWS, network.outputs)).astype(float)


def format_table(checks: Sequence[GradientCheck]) -> list[str]:
    """Return the checks as lines of a table, and the conclusion."""
    lines = [f"{'layer':>5}  {'array':5} {'shape':>12} {'probes':>7} {'kinks':>6} {'error':>9}"]
    for check in checks:
        shape = "×".join(map(str, check.shape))
        probes = check.entries + check.directions
        layer = str(check.layer) if check.layer else "input"
        status = "ok" if check.ok else f"WRONG (more than {check.tolerance:g})"
        lines.append(
            f"{layer:>5}  {check.name:5} {shape:>12} {probes:>7} {check.kinks:>6} "
            f"{check.error:>9.1e}  {status}"
        )
    if wrong := [check.name for check in checks if not check.ok]:
        return [*lines, f"gradients differ from numeric derivatives in {', '.join(wrong)}"]
    worst = max(check.error for check in checks)
    conclusion = "all gradients agree with numeric derivatives; largest relative error"
    return [*lines, f"{conclusion} {worst:.1e}"]
