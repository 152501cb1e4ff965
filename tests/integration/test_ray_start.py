"""Nodes that `ray start` makes, as docs/machines.md says: with a token, and one of them is lost."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.command_line import Folder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Node:
    """A node that ``ray start --block`` keeps; its processes are a group of their own."""

    process: "subprocess.Popen[str]"

    def lose_power(self) -> None:
        """End all of its processes at once, without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """As Ctrl-C or a service manager does."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=45)
        self.lose_power()


@dataclass(frozen=True)
class ByHand:
    """A cluster that was started as docs/machines.md says, on one machine and other ports."""

    address: str
    environment: dict[str, str]
    workers: tuple[Node, ...]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def ray_start(environment: dict[str, str], log: Path, *arguments: str) -> Node:
    """Start a node, and wait until it is one."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments]
    # Ray gives a node 30 seconds to come up, which a busy machine does not always keep.
    for _ in range(3):
        # As many nodes as are on one machine want the same ports otherwise.
        own = ["--num-cpus=2", f"--dashboard-agent-listen-port={free_port()}"]
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, *own],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        node = Node(process)
        give_up = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < give_up:
            if "Ray runtime started" in log.read_text():
                return node
            time.sleep(0.1)
        node.lose_power()
    raise AssertionError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def by_hand() -> Iterator[ByHand]:
    """A head and two more nodes, and a token that all of them ask for."""
    with contextlib.ExitStack() as stack:
        # Ray's sockets have their names below, which may not be long.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sg-")))
        token = folder / "sumgrad.token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        address = f"127.0.0.1:{free_port()}"
        head = [
            *("--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"),
            *(f"--ray-client-server-port={free_port()}", f"--temp-dir={folder / 'ray'}"),
        ]
        stack.callback(ray_start(environment, folder / "head.log", *head).end)
        workers = []
        for number in range(2):
            log = folder / f"worker-{number}.log"
            workers.append(ray_start(environment, log, f"--address={address}"))
            stack.callback(workers[-1].lose_power)
        yield ByHand(address, environment, tuple(workers))


JOB = """\
name: machines
data: {train: digits, label: digit, test: 0.2, validation: 0.1}
model:
  layers:
    - {units: 32, activation: relu}
    - {units: 10, activation: softmax}
  divergence: kl
optimizer: {eta: 0.5, batch_size: 64}
stop: {max_epochs: 150, tolerance: 0}
cluster: {microbatch_size: 8}
"""


def folder_for(path: Path, database: Path, environment: dict[str, str]) -> Folder:
    path.mkdir()
    shutil.copy(database, path / "mlflow.db")
    (path / "job.yaml").write_text(JOB)
    return Folder(path, environment)


def test_three_nodes_with_a_token_one_of_which_is_lost(
    by_hand: ByHand, tmp_path: Path, database: Path
) -> None:
    """Six workers on three nodes, then four on two; the weights are those of one process."""
    alone = folder_for(tmp_path / "alone", database, {}).sumgrad(
        *("train", "job.yaml", "--set", "cluster.address=inline", "--json")
    )
    assert alone.code == 0, alone.err

    stranger = folder_for(tmp_path / "stranger", database, {"RAY_AUTH_TOKEN": "x" * 64})
    refused = stranger.sumgrad(
        *("train", "job.yaml", "--set", f"cluster.address={by_hand.address}", "--json")
    )
    assert refused.code == 3, refused.err
    assert "RAY_AUTH_TOKEN_PATH" in refused.err

    friend = folder_for(tmp_path / "friend", database, by_hand.environment)
    process = friend.start(
        *("train", "job.yaml", "--json", "--set", f"cluster.address={by_hand.address}"),
        *("--set", "cluster.workers={min: 2, max: 6}"),
    )
    assert process.stderr is not None
    told = ""
    while "epoch 1/" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    assert "on 6 Ray workers" in told
    by_hand.workers[-1].lose_power()
    assert process.poll() is None, "it ended before its node did"
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, told + err
    result = json.loads(out.strip().splitlines()[-1])
    assert result["epochs"] == 150
    assert result["instances_seen"] == alone.result["instances_seen"]
    assert result["weights_sha256"] == alone.result["weights_sha256"]
