"""Comparison with PyTorch DDP, scikit-learn and the bare kernel: ``python -m benchmarks.compare``.

The contenders take turns, so that other load on the machine affects all of them alike. Each figure
is the median over all steps of all turns. Writes a table, a plot and the numbers.
"""

import contextlib
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cells import BATCHES, NETWORKS, Cell
from benchmarks.contender import Contender

TITLE = "Milliseconds per step, compared with PyTorch DDP and scikit-learn"
PROCESSES = 2
#: Seconds that a turn of a contender takes, approximately.
TURN_S = 0.4
ALL_CORES = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
#: Name, module and arguments of each contender.
CONTENDERS: Mapping[str, tuple[str, ...]] = {
    "Ray": ("benchmarks.sumgrad_steps", "ray", str(PROCESSES)),
    "inline": ("benchmarks.sumgrad_steps", "inline", str(PROCESSES)),
    "DDP": ("benchmarks.ddp_steps", str(PROCESSES)),
    "kernel": ("benchmarks.kernel_steps", str(PROCESSES)),
    "sklearn": ("benchmarks.sklearn_steps",),
}


@dataclass(frozen=True)
class CellResult:
    """The median milliseconds of a cell's steps, by contender."""

    cell: Cell
    milliseconds: Mapping[str, float]

    def speedup(self, contender: str, over: str) -> float:
        """Return the number of steps that a contender does during one step of another."""
        return self.milliseconds[over] / self.milliseconds[contender]


def measure(
    cells: Sequence[Cell], contenders: Mapping[str, Contender], turns: int
) -> list[CellResult]:
    """Measure every cell with every contender, in turns."""
    results = []
    for cell in cells:
        steps = {}
        for name, contender in contenders.items():
            contender.steps(cell, 3)
            step = statistics.median(contender.steps(cell, 5))
            steps[name] = max(3, min(400, round(TURN_S / step)))
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(turns):
            for name, contender in contenders.items():
                seconds[name] += contender.steps(cell, steps[name])
        medians = {name: 1e3 * statistics.median(each) for name, each in seconds.items()}
        results.append(CellResult(cell, medians))
        summary = "  ".join(f"{name} {value:.2f}" for name, value in medians.items())
        print(f"{cell.network} batch {cell.batch}: {summary} ms", file=sys.stderr, flush=True)
    return results


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of ratios."""
    return math.exp(sum(map(math.log, values)) / len(values))


def machine() -> str:
    """Describe the machine and the versions of the packages."""
    names = ("numpy", "ray", "torch", "scikit-learn")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {versions}"


def write_report(path: Path, title: str, text: str) -> None:
    """Write and print a Markdown report, which names the machine."""
    report = f"# {title}\n\n{machine()}.\n\n{text}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report)
    print(report)


def table_head(titles: Sequence[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def ddp_table(results: Sequence[CellResult]) -> str:
    """Return the comparison with PyTorch DDP and with the bare kernel."""
    heads = ["network", "batch", "Ray, ms", "inline, ms", "DDP, ms", "kernel, ms"]
    lines = table_head([*heads, "Ray : DDP", "inline : DDP", "Ray : kernel"])
    for result in results:
        ms = result.milliseconds
        lines.append(
            f"| {result.cell.network} | {result.cell.batch} | {ms['Ray']:.2f} "
            f"| {ms['inline']:.2f} | {ms['DDP']:.2f} | {ms['kernel']:.2f} "
            f"| {result.speedup('Ray', 'DDP'):.2f} "
            f"| {result.speedup('inline', 'DDP'):.2f} "
            f"| {result.speedup('Ray', 'kernel'):.0%} |"
        )
    ray, inline = (
        geometric_mean([result.speedup(backend, "DDP") for result in results])
        for backend in ("Ray", "inline")
    )
    lines.append(f"| geometric mean | | | | | | **{ray:.2f}** | **{inline:.2f}** | |")
    return "\n".join(lines)


def sklearn_table(results: Sequence[CellResult]) -> str:
    """Return the comparison with scikit-learn."""
    heads = ["network", "batch", "sklearn, inst/s", "inline, inst/s", "Ray, inst/s"]
    lines = table_head([*heads, "inline : sklearn", "Ray : sklearn"])
    for result in results:
        rate = {
            name: 1e3 * result.cell.batch / value for name, value in result.milliseconds.items()
        }
        lines.append(
            f"| {result.cell.network} | {result.cell.batch} | {rate['sklearn']:,.0f} "
            f"| {rate['inline']:,.0f} | {rate['Ray']:,.0f} "
            f"| {result.speedup('inline', 'sklearn'):.2f} "
            f"| {result.speedup('Ray', 'sklearn'):.2f} |"
        )
    return "\n".join(lines)


def plot(results: Sequence[CellResult], path: Path) -> None:
    """Plot the speedup over DDP, cell by cell."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "sumgrad"
    figure, axes = plt.subplots(figsize=(12, 4))
    labels = [f"{result.cell.network}\n{result.cell.batch}" for result in results]
    for shift, backend in ((-0.2, "Ray"), (0.2, "inline")):
        heights = [result.speedup(backend, "DDP") for result in results]
        axes.bar(
            [i + shift for i in range(len(labels))], heights, 0.38, label=f"sumgrad, {backend}"
        )
    limits = [result.speedup("kernel", "DDP") for result in results]
    axes.plot(range(len(labels)), limits, "k_", markersize=28, label="bare kernel: the limit")
    axes.axhline(1, color="grey", linewidth=1)
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylabel("times as fast as PyTorch DDP")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(
    out: Annotated[Path, typer.Option(help="Directory for the table, the plot and the numbers.")],
    turns: Annotated[int, typer.Option(help="Turns of each contender in each cell.")] = 7,
) -> None:
    """Run the comparison and write the results."""
    with contextlib.ExitStack() as stack:
        contenders = {
            name: stack.enter_context(
                Contender(*command, environment=ALL_CORES if name == "sklearn" else None)
            )
            for name, command in CONTENDERS.items()
        }
        grid = [Cell(hidden, batch) for hidden in NETWORKS for batch in BATCHES]
        peers = {name: contenders[name] for name in ("Ray", "inline", "DDP", "kernel")}
        ddp = measure(grid, peers, turns)
        grid = [Cell(hidden, batch) for hidden in NETWORKS[:2] for batch in (256, 1024)]
        peers = {name: contenders[name] for name in ("Ray", "inline", "sklearn")}
        sklearn = measure(grid, peers, turns)
    out.mkdir(parents=True, exist_ok=True)
    numbers = [
        {"network": r.cell.network, "batch": r.cell.batch, "milliseconds": dict(r.milliseconds)}
        for r in (*ddp, *sklearn)
    ]
    (out / "compare.json").write_text(json.dumps(numbers, indent=1) + "\n")
    plot(ddp, out / "compare.svg")
    write_report(out / "compare.md", TITLE, f"{ddp_table(ddp)}\n\n{sklearn_table(sklearn)}")


if __name__ == "__main__":
    typer.run(main)
