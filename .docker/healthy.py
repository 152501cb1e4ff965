"""Check the health of a service of docker-compose.yml: `healthy.py head`, `worker` or `mlflow`.

Each container runs it every ten seconds, so it imports only the standard library.
"""

import base64
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT_S = 5.0


def main(service: str) -> None:
    """Print the state of a service, or its problem, with exit code 1."""
    try:
        print({"head": head, "worker": worker, "mlflow": mlflow}[service]())  # noqa: T201 - Docker keeps it
    except (OSError, ValueError, LookupError) as error:
        sys.exit(f"{service}: {error!r}")


def head() -> str:
    """Check that the dashboard and Ray's GCS answer clients with the token, and no others."""
    dashboard = "http://127.0.0.1:8265"
    check_closed(f"{dashboard}/nodes?view=summary")
    return f"{len(living_nodes(dashboard))} nodes"


def worker() -> str:
    """Check that this container is one of the cluster's living nodes."""
    address = socket.gethostbyname(socket.gethostname())
    nodes = living_nodes(os.environ["SUMGRAD_CLUSTER"])
    if address not in nodes:
        raise ValueError(f"{address} is not among the living nodes: {', '.join(sorted(nodes))}")
    return f"{address} is one of {len(nodes)} nodes"


def mlflow() -> str:
    """Check that server and database answer, under their name in the network, with the token."""
    experiment = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/get?experiment_id=0"
    check_closed(experiment)
    login = base64.b64encode(f"sumgrad:{token('SUMGRAD_TRACKING_TOKEN_FILE')}".encode()).decode()
    found = answer(experiment, Host="mlflow:5000", Authorization=f"Basic {login}")
    return str(json.loads(found)["experiment"]["name"])


def living_nodes(dashboard: str) -> set[str]:
    """Return the addresses of the cluster's living nodes, from Ray's GCS."""
    bearer = f"Bearer {token('RAY_AUTH_TOKEN_PATH')}"
    found = answer(f"{dashboard}/nodes?view=summary", Authorization=bearer)
    nodes: list[dict[str, Any]] = json.loads(found)["data"]["summary"]
    return {node["ip"] for node in nodes if node["raylet"]["state"] == "ALIVE"}


def token(variable: str) -> str:
    """Return the content of the file that a variable names."""
    return Path(os.environ[variable]).read_text().strip()


def check_closed(address: str) -> None:
    """Raise unless a client without a token is refused."""
    try:
        answer(address)
    except HTTPError as refusal:
        if refusal.code != 401:
            raise
    else:
        raise ValueError(f"{address} answers without a token")


def answer(address: str, **headers: str) -> bytes:
    """Return the body of the answer to a GET; raise for an HTTP error."""
    request = Request(address, headers=headers)  # noqa: S310 - the addresses are those above
    with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
        content: bytes = response.read()
    return content


if __name__ == "__main__":
    main(sys.argv[1])
