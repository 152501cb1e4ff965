"""Hosts for a benchmark: network namespaces of this machine, joined by a bridge; needs root.

Traffic between them passes through the kernel's network stack, as between machines without the
wire. Shared memory and local sockets do not reach from one to another.
"""

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.transport.handshake import Address
from sumgrad.cluster.workers.launcher import Launcher
from sumgrad.cluster.workers.worker_process import WorkerProcess

BRIDGE = "sumgrad0"
#: Addresses of the driver and of the hosts.
DRIVER = "10.77.0.1"
HOSTS = {"sumgrad1": "10.77.0.2", "sumgrad2": "10.77.0.3"}


def inside(host: str) -> list[str]:
    """Return the prefix of a command that runs on a host."""
    return ["ip", "netns", "exec", host]


@contextlib.contextmanager
def hosts() -> Iterator[None]:
    """Create the hosts, and remove them at the end."""

    def run(command: str) -> None:
        subprocess.run(command.split(), check=True)

    with contextlib.ExitStack() as stack:
        run(f"ip link add {BRIDGE} type bridge")
        stack.callback(run, f"ip link del {BRIDGE}")
        run(f"ip addr add {DRIVER}/24 dev {BRIDGE}")
        run(f"ip link set {BRIDGE} up")
        for host, address in HOSTS.items():
            run(f"ip netns add {host}")
            stack.callback(run, f"ip netns del {host}")
            run(f"ip link add {host} type veth peer name eth0 netns {host}")
            run(f"ip link set {host} master {BRIDGE} up")
            run(f"ip -n {host} addr add {address}/24 dev eth0")
            run(f"ip -n {host} link set eth0 up")
            run(f"ip -n {host} link set lo up")
        yield


@dataclass
class NamespaceLauncher(Launcher):
    """Launcher that starts each worker in a network namespace."""

    workload: Workload
    _processes: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """Start a worker's process on its host."""
        host = list(HOSTS)[worker]
        command = [*inside(host), sys.executable, "-m", "benchmarks.namespaces"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        pickle.dump((worker, self.workload, address, secret), process.stdin)
        process.stdin.close()
        self._processes[worker] = process

    def exit_reason(self, worker: int) -> str | None:
        """Return why a worker's process ended, or None while it runs."""
        code = self._processes[worker].poll()
        return None if code is None else f"it ended with {code}"

    def kill(self, worker: int) -> None:
        """Kill a worker's process."""
        self._processes[worker].kill()

    def close(self) -> None:
        """Kill all processes."""
        for process in self._processes.values():
            process.kill()
            process.wait()


if __name__ == "__main__":
    worker, workload, address, secret = pickle.load(sys.stdin.buffer)
    WorkerProcess(worker, workload).serve(address, secret)
