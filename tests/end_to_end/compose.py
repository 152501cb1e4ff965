"""A Compose project for the tests, with a transcript of every command and its output."""

import base64
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from sumgrad.jobs.support.polling import wait_until

if TYPE_CHECKING:
    from mlflow.entities import Run

ROOT = Path(__file__).parents[2]
SUMGRAD = Path(sysconfig.get_path("scripts")) / "sumgrad"
#: The image stays, so that the next run builds on its layers; users build another one.
IMAGE = "sumgrad:end-to-end"
#: Variables of the caller that could change the result of a test.
_REMOVED_PREFIXES = ("COMPOSE_", "RAY_", "MLFLOW_", "SUMGRAD_", "XDG_")


@dataclass(frozen=True)
class Finished:
    """The result of a command; its output is that of both streams."""

    code: int
    out: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on the last line that holds one."""
        lines = [line for line in self.out.splitlines() if line.startswith("{")]
        value: dict[str, Any] = json.loads(lines[-1])
        return value


def log(text: str) -> None:
    """Write to the transcript."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def run(
    command: Sequence[str], environment: Mapping[str, str], *, shown: str, seconds: float = 120
) -> Finished:
    """Run a command to its end, and write it to the transcript."""
    log(f"\n$ {shown}")
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )
    log(_shortened(done.stdout))
    log(f"[exit code {done.returncode} after {time.monotonic() - began:.1f} s]")
    return Finished(done.returncode, done.stdout)


def _shortened(text: str, max_lines: int = 24) -> str:
    lines = text.splitlines()
    if len(lines) <= max_lines:
        return text
    half = max_lines // 2
    omitted = f"    … {len(lines) - 2 * half} lines …"
    return "\n".join([*lines[:half], omitted, *lines[-half:]])


def reason_to_skip() -> str | None:
    """Return why these tests cannot run here; None if they can."""
    if shutil.which("docker") is None:
        return "the docker command is missing"
    answer = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if answer.returncode or not answer.stdout.strip():
        problem = (answer.stderr.strip().splitlines() or ["no output"])[0]
        return f"no Docker engine answers: {problem}"
    return None if find_compose() else "'docker compose' and docker-compose are missing"


def find_compose() -> list[str]:
    """Return the Compose to test with: SUMGRAD_COMPOSE, Docker's plugin, or docker-compose."""
    if given := os.environ.get("SUMGRAD_COMPOSE"):
        return shlex.split(given)
    plugin = ["docker", "compose"]
    asked = subprocess.run([*plugin, "version"], capture_output=True, check=False, timeout=60)
    if asked.returncode == 0:
        return plugin
    return ["docker-compose"] if shutil.which("docker-compose") else []


def free_port() -> int:
    """Return a port of loopback where no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class Lab:
    """The services of docker-compose.yml, as a project apart from the user's own.

    Attributes:
        folder: Holds the token and the data, and is the home of the command line's user.
        project: The name of the Compose project.
        dashboard_port: The host's port for Ray's dashboard.
        mlflow_port: The host's port for MLflow.
    """

    folder: Path
    project: str = field(default_factory=lambda: f"sumgrad-test-{secrets.token_hex(4)}")
    dashboard_port: int = field(default_factory=free_port)
    mlflow_port: int = field(default_factory=free_port)
    _compose: list[str] = field(default_factory=find_compose)

    @property
    def dashboard(self) -> str:
        """Ray's dashboard as the host reaches it."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def mlflow(self) -> str:
        """MLflow as the host reaches it."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def token_file(self) -> Path:
        """The file that `make token` writes."""
        return self.folder / "secrets" / "cluster_token"

    @property
    def data(self) -> Path:
        """The folder that containers see as /data."""
        return self.folder / "data"

    @property
    def _bare_environment(self) -> dict[str, str]:
        found = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_REMOVED_PREFIXES)
        }
        return found | {"HOME": str(self.folder)}

    @property
    def token(self) -> str:
        """The token of Ray and MLflow."""
        return self.token_file.read_text()

    def make_token(self) -> None:
        """Make another token, with the command of docs/docker.md."""
        self.token_file.unlink(missing_ok=True)
        rules = ["--no-print-directory", "-C", str(self.folder), "-f", str(ROOT / "Makefile")]
        made = run(
            ["make", *rules, f"PYTHON={sys.executable}", "token"],
            self._bare_environment,
            shown="make token",
        )
        assert made.code == 0

    def compose(self, *arguments: str, seconds: float = 300) -> Finished:
        """Run Compose on the project."""
        environment = self._bare_environment | {
            "HOME": os.environ.get("HOME", "/"),
            "COMPOSE_PROJECT_NAME": self.project,
            "SUMGRAD_IMAGE": IMAGE,
            "SUMGRAD_TOKEN_FILE": str(self.token_file),
            "SUMGRAD_DATA": str(self.data),
            "SUMGRAD_DASHBOARD_PORT": str(self.dashboard_port),
            "SUMGRAD_MLFLOW_PORT": str(self.mlflow_port),
        }
        command = [*self._compose, "--file", str(ROOT / "docker-compose.yml"), *arguments]
        name = " ".join(Path(word).name for word in self._compose)
        return run(command, environment, shown=f"{name} {shlex.join(arguments)}", seconds=seconds)

    def inside(self, *arguments: str, seconds: float = 300) -> Finished:
        """Run the command line in a container."""
        return self.compose("run", "--rm", "-T", "cli", *arguments, seconds=seconds)

    def _client(self, token: str | None) -> dict[str, str]:
        shown = (
            {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        )
        where = {
            "SUMGRAD_CLUSTER": self.dashboard,
            "MLFLOW_TRACKING_URI": self.mlflow,
            "SUMGRAD_TRACKING_TOKEN_FILE": str(self.token_file),
        }
        return self._bare_environment | where | shown

    def sumgrad(self, *arguments: str, token: str | None = None, seconds: float = 300) -> Finished:
        """Run the command line on the host.

        Args:
            arguments: Arguments of `sumgrad`.
            token: A token to use instead of the cluster's.
            seconds: Timeout.
        """
        return run(
            [str(SUMGRAD), *arguments],
            self._client(token),
            shown=f"{f'RAY_AUTH_TOKEN={token} ' if token else ''}sumgrad {shlex.join(arguments)}",
            seconds=seconds,
        )

    def jobs(self) -> list[dict[str, Any]]:
        """Return the cluster's jobs."""
        listed = self.sumgrad("jobs", "--json")
        assert listed.code == 0
        found: list[dict[str, Any]] = json.loads(listed.out.splitlines()[-1])
        return found

    def run_of(self, run_id: str) -> "Run":
        """Return a run from MLflow."""
        from mlflow import MlflowClient  # takes seconds, and most test runs skip these tests

        client = MlflowClient(self.mlflow.replace("://", f"://sumgrad:{self.token}@"))
        experiments = [each.experiment_id for each in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"attributes.run_name = '{run_id}'")
        return run

    @contextmanager
    def following(self, job_id: str) -> Iterator["Log"]:
        """Follow a job's log in the background."""
        arguments = ("logs", "-f", job_id)
        log(f"\n$ sumgrad {shlex.join(arguments)} &")
        process = subprocess.Popen(
            [SUMGRAD, *arguments],
            env=self._client(None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        output = Log(process)
        try:
            yield output
        finally:
            process.kill()
            output.wait(60)

    def containers(self, service: str | None = None, *, also_stopped: bool = False) -> list[str]:
        """Return the ids of the project's containers."""
        wanted = [f"label=com.docker.compose.project={self.project}"]
        if service:
            wanted.append(f"label=com.docker.compose.service={service}")
        filters = [word for one in wanted for word in ("--filter", one)]
        return _docker("ps", "--quiet", *filters, *(["--all"] if also_stopped else [])).split()

    def inspect(self, service: str) -> list[dict[str, Any]]:
        """Return Docker's descriptions of a service's containers."""
        found: list[dict[str, Any]] = json.loads(_docker("inspect", *self.containers(service)))
        return found

    def leftovers(self) -> list[str]:
        """Return the project's containers, volumes and networks."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [name for kind in kinds for name in _docker(*kind, *mine).split()]

    def docker(self, *arguments: str) -> None:
        """Run docker, and write it to the transcript."""
        done = run(["docker", *arguments], os.environ, shown=f"docker {shlex.join(arguments)}")
        assert done.code == 0

    def wait_until_healthy(self, workers: int, seconds: float = 240) -> None:
        """Wait until all services are healthy, with the given number of workers."""

        def healths() -> list[str]:
            found = [one for name in ("mlflow", "head", "worker") for one in self.inspect(name)]
            return [str(one["State"]["Health"]["Status"]) for one in found]

        require(lambda: healths() == ["healthy"] * (2 + workers), seconds, healths)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the living nodes from Ray's dashboard; none while it does not answer."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            code, text = get(f"{self.dashboard}/nodes?view=summary", headers)
        except OSError:
            return []
        found = json.loads(text)["data"]["summary"] if code == 200 else []
        return [node for node in found if node["raylet"]["state"] == "ALIVE"]

    def take_down(self) -> None:
        """Remove containers, network and volumes."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "20")


class Log:
    """The output of a running command so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.append(line.rstrip("\n"))
                log(f"  | {self._lines[-1]}")

    @property
    def text(self) -> str:
        """All output so far."""
        return "\n".join(self._lines)

    def wait(self, seconds: float) -> int:
        """Wait for the end and return the exit code."""
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        return code


def require(
    condition: Callable[[], bool], seconds: float, state: Callable[[], object] | None = None
) -> None:
    """Wait until a condition holds, and fail when it takes too long."""
    if not wait_until(condition, seconds, interval=1.0):
        raise AssertionError(f"not within {seconds:.0f} s: {state() if state else ''}")


def get(address: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the status and the body of the answer to a GET."""
    response = requests.get(address, headers=headers, timeout=30)
    return response.status_code, response.text


def login(password: str, user: str = "sumgrad") -> dict[str, str]:
    """Return the headers of a login at MLflow."""
    shown = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {shown}"}


def _docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], check=True, text=True, capture_output=True, timeout=120
    ).stdout
