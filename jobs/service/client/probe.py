"""Collect what ``sumgrad doctor`` reports about a cluster; `preflight` runs it there.

``python -P -m sumgrad.jobs.service.client.probe '{"paths": ["/data/rows.parquet"]}'``
"""

import glob
import json
import logging
import os
import socket
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from sumgrad.jobs.service.client.preflight import answer
from sumgrad.jobs.service.mlflow_check import mlflow_problem
from sumgrad.jobs.support.redaction import redact

#: A node that does not answer for so long is told as such.
NODE_TIMEOUT_S = 20.0


def main(question: str) -> None:
    """Print the answer."""
    paths = [str(path) for path in json.loads(question)["paths"]]
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    answer(
        {
            **_cluster(paths),
            "mlflow_uri": redact(uri),
            "mlflow_problem": mlflow_problem(uri) if uri else None,
            "output": os.environ.get("SUMGRAD_OUTPUT", ""),
            "head": inspect_node(paths),
        }
    )


def inspect_node(paths: list[str]) -> dict[str, Any]:
    """What one machine of the cluster says of itself."""
    return {
        "host": socket.gethostname(),
        "time": time.time(),
        "numpy": metadata.version("numpy"),
        "unreadable": [path for path in paths if not _is_readable(path)],
    }


def _is_readable(path: str) -> bool:
    found = glob.glob(path) if glob.has_magic(path) else [path]  # noqa: PTH207 - absolute patterns
    return bool(found) and all(os.access(name, os.R_OK) and Path(name).exists() for name in found)


def _cluster(paths: list[str]) -> dict[str, Any]:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    ask: Any = ray.remote(inspect_node)
    asked = {
        node["NodeID"]: ask.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(paths)
        for node in nodes
    }
    began = time.time()
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=NODE_TIMEOUT_S)
    told = []
    for node in nodes:
        reference = asked[node["NodeID"]]
        facts: dict[str, Any] = {"host": node["NodeManagerHostname"], "problem": ""}
        try:
            facts |= ray.get(reference) if reference in ready else {"problem": "does not answer"}
        except RayError as error:
            facts["problem"] = str(error).strip().splitlines()[-1]
        told.append(facts)
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return {
        "asked_at": began,
        "nodes": told,
        "cpus": total.get("CPU", 0.0),
        "free_cpus": free.get("CPU", 0.0),
        "memory": total.get("memory", 0.0),
        "free_memory": free.get("memory", 0.0),
    }


if __name__ == "__main__":
    main(sys.argv[1])
