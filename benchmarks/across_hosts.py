"""Comparison with PyTorch DDP on separate hosts: ``python -m benchmarks.across_hosts``, as root.

The hosts are network namespaces, see benchmarks/namespaces.py.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cells import BATCHES, NETWORKS, Cell
from benchmarks.compare import geometric_mean, measure, table_head, write_report
from benchmarks.contender import ONE_THREAD, Contender
from benchmarks.namespaces import HOSTS, hosts, inside

TITLE = "Milliseconds per step between two hosts, compared with PyTorch DDP"
PORT = "29500"


def main(
    out: Annotated[Path, typer.Option(help="Directory for the table.")],
    turns: Annotated[int, typer.Option(help="Turns of each contender in each cell.")] = 5,
) -> None:
    """Run the comparison and write the results."""
    (first, address), (second, _) = HOSTS.items()
    ranks = ["benchmarks.ddp_steps", "2", address, PORT]
    gloo = {"GLOO_SOCKET_IFNAME": "eth0"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(hosts())
        other = subprocess.Popen(
            [*inside(second), sys.executable, "-m", *ranks, "1"],
            env=os.environ | ONE_THREAD | gloo,
        )
        stack.callback(other.wait)
        # Callbacks run in reverse order. A process that has ended ignores it.
        stack.callback(other.terminate)
        contenders = {
            "sumgrad": stack.enter_context(Contender("benchmarks.sumgrad_steps", "remote", "2")),
            "DDP": stack.enter_context(
                Contender(*ranks, "0", environment=gloo, prefix=inside(first))
            ),
        }
        grid = [Cell(hidden, batch) for hidden in NETWORKS for batch in BATCHES]
        results = measure(grid, contenders, turns)
    lines = table_head(["network", "batch", "sumgrad, ms", "DDP, ms", "sumgrad : DDP"])
    for result in results:
        ms, ratio = result.milliseconds, result.speedup("sumgrad", "DDP")
        lines.append(
            f"| {result.cell.network} | {result.cell.batch} | {ms['sumgrad']:.2f} "
            f"| {ms['DDP']:.2f} | {ratio:.2f} |"
        )
    mean = geometric_mean([result.speedup("sumgrad", "DDP") for result in results])
    lines.append(f"| geometric mean | | | | **{mean:.2f}** |")
    write_report(out / "across_hosts.md", TITLE, "\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
