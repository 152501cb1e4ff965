"""The limit: a bare NumPy kernel without communication, ``python -m benchmarks.kernel_steps 2``.

It computes ReLU, softmax with cross-entropy and sums of gradients for these networks only, and
shares no code with sumgrad. It allocates every array once, in the faster memory order.
"""

import multiprocessing as mp
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import ROWS, Cell, data
from benchmarks.contender import RunSteps, serve

#: Number of rows below which BLAS is faster with each instance in a column of memory.
COLUMNS_BELOW = 128
#: Rows of a piece, whose activations stay in the cache.
PIECE = 256

Floats = NDArray[np.float32]


def kernel(cell: Cell, rows: int) -> Callable[[Floats, NDArray[np.int64], NDArray[np.int64]], None]:
    """Return a function of all x, all classes and ``rows`` indices that sums their gradients."""
    generator = np.random.default_rng(0)
    sizes = list(pairwise(cell.widths))
    W = [generator.standard_normal((n, m), dtype=np.float32) * 0.05 for m, n in sizes]
    b = [np.zeros(n, np.float32) for _, n in sizes]
    d_W, d_b = [np.empty_like(w) for w in W], [np.empty_like(v) for v in b]
    order: Literal["F", "C"] = "F" if rows < COLUMNS_BELOW else "C"
    y = [np.empty((rows, n), np.float32, order) for _, n in sizes]
    d_z = [np.empty((rows, n), np.float32, order) for _, n in sizes]
    mask = [np.empty((rows, n), bool, order) for _, n in sizes]
    x_here = np.empty((rows, sizes[0][0]), np.float32)
    all_rows, last = np.arange(rows), len(sizes) - 1

    def run(all_x: Floats, all_classes: NDArray[np.int64], picked: NDArray[np.int64]) -> None:
        x, classes = np.take(all_x, picked, axis=0, out=x_here, mode="clip"), all_classes[picked]
        before = x
        for k in range(last + 1):
            np.matmul(W[k], before.T, out=y[k].T)
            y[k] += b[k]
            if k < last:
                np.maximum(y[k], 0, out=y[k])
            before = y[k]
        d = y[last]
        d -= d.max(axis=1, keepdims=True)
        np.exp(d, out=d)
        d /= d.sum(axis=1, keepdims=True)
        d[all_rows, classes] -= 1
        for k in range(last, -1, -1):
            np.matmul(d.T, x if k == 0 else y[k - 1], out=d_W[k])
            np.sum(d, axis=0, out=d_b[k])
            if k:
                np.matmul(W[k].T, d.T, out=d_z[k - 1].T)
                np.greater(y[k - 1], 0, out=mask[k - 1])
                d = np.multiply(d_z[k - 1], mask[k - 1], out=d_z[k - 1])

    return run


def prepare_steps(cell: Cell, processes: int, rank: int) -> RunSteps:
    """Return a function that runs steps on this process's part of each batch."""
    share = cell.batch // processes
    piece = min(PIECE, share)
    compute = kernel(cell, piece)
    x, classes = data()
    generator = np.random.default_rng(rank)

    def run(steps: int) -> list[float]:
        ends = [time.perf_counter()]
        order, position = generator.permutation(ROWS), 0
        for _ in range(steps):
            if position + share > ROWS:
                order, position = generator.permutation(ROWS), 0
            for start in range(position, position + share, piece):
                compute(x, classes, order[start : start + piece])
            position += share
            ends.append(time.perf_counter())
        return [after - before for before, after in pairwise(ends)]

    return run


def serve_rank(processes: int, rank: int, connection: Connection) -> None:
    """Serve requests of the first process: a cell to prepare, or a number of steps to run."""
    run: RunSteps | None = None
    while (request := connection.recv()) is not None:
        if isinstance(request, Cell):
            run = prepare_steps(request, processes, rank)
        elif run is not None:
            connection.send(run(request))


def main(processes: int) -> None:
    """Serve requests until stdin ends."""
    context = mp.get_context("spawn")
    ends = [context.Pipe() for _ in range(processes - 1)]
    others = [
        context.Process(target=serve_rank, args=(processes, rank, theirs))
        for rank, (_, theirs) in enumerate(ends, start=1)
    ]
    for other in others:
        other.start()

    def prepare(cell: Cell) -> RunSteps:
        own = prepare_steps(cell, processes, 0)
        for ours, _ in ends:
            ours.send(cell)

        def run(steps: int) -> list[float]:
            for ours, _ in ends:
                ours.send(steps)
            times = [own(steps), *(ours.recv() for ours, _ in ends)]
            return [max(each) for each in zip(*times, strict=True)]

        return run

    serve(prepare)
    for ours, _ in ends:
        ours.send(None)
    for other in others:
        other.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
