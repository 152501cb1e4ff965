"""PyTorch's DistributedDataParallel over gloo as a contender: one process and thread per rank.

``python -m benchmarks.ddp_steps RANKS`` starts all ranks; ``… RANKS HOST PORT RANK`` is one of
them, and rank 0 listens at HOST and PORT.
"""

import os
import socket
import sys
import time
from itertools import pairwise

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.cells import ETA, ROWS, Cell, data
from benchmarks.contender import RunSteps, serve


def prepare_steps(cell: Cell, rank: int, ranks: int) -> RunSteps:
    """Return a function that runs steps on this rank's part of each batch, without a DataLoader."""
    layers: list[nn.Module] = []
    for before, after in pairwise(cell.widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(*layers[:-1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=ETA)
    loss_of = nn.CrossEntropyLoss()
    x, d = (torch.from_numpy(part) for part in data())
    share = cell.batch // ranks

    def run(steps: int) -> list[float]:
        ends = [time.perf_counter()]
        order, position = torch.randperm(ROWS), 0
        for _ in range(steps):
            if position + cell.batch > ROWS:
                order, position = torch.randperm(ROWS), 0
            rows = order[position + rank * share : position + (rank + 1) * share]
            position += cell.batch
            optimizer.zero_grad()
            loss_of(model(x[rows]), d[rows]).backward()
            optimizer.step()
            ends.append(time.perf_counter())
        return [after - before for before, after in pairwise(ends)]

    return run


def run_rank(rank: int, ranks: int, port: int, host: str = "127.0.0.1") -> None:
    """Serve requests on rank 0, and follow rank 0 on the others."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{host}:{port}", rank=rank, world_size=ranks)
    request: list[object] = [None]

    if rank == 0:

        def prepare(cell: Cell) -> RunSteps:
            dist.broadcast_object_list([("prepare", cell)])
            run = prepare_steps(cell, rank, ranks)

            def run_together(steps: int) -> list[float]:
                dist.broadcast_object_list([("run", steps)])
                return run(steps)

            return run_together

        serve(prepare)
        dist.broadcast_object_list([("end", None)])
    else:
        run: RunSteps | None = None
        while True:
            dist.broadcast_object_list(request)
            match request[0]:
                case ("prepare", Cell() as cell):
                    run = prepare_steps(cell, rank, ranks)
                case ("run", int(steps)) if run is not None:
                    run(steps)
                case _:
                    break
    dist.destroy_process_group()


def main(ranks: int) -> None:
    """Start the other ranks and run rank 0."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    others = [
        context.Process(target=run_rank, args=(rank, ranks, port)) for rank in range(1, ranks)
    ]
    for other in others:
        other.start()
    run_rank(0, ranks, port)
    for other in others:
        other.join()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    match sys.argv[1:]:
        case [ranks]:
            main(int(ranks))
        case [ranks, host, port, rank]:
            run_rank(int(rank), int(ranks), int(port), host)
