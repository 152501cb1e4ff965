"""The report of a cluster for ``sumgrad doctor``, made by a short job on its head.

``python -P -m sumgrad.jobs.service.host.probe '["/data/rows.parquet"]'``
"""

import glob
import json
import logging
import os
import socket
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from sumgrad.jobs.service.mlflow_check import mlflow_problem
from sumgrad.jobs.service.versions import Versions
from sumgrad.jobs.support.redaction import redact

#: The line of the log that holds the report as JSON starts with it.
REPORT_PREFIX = "sumgrad-probe: "
NODE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class NodeReport:
    """What one machine of a cluster reports."""

    host: str
    #: Why it does not answer; empty if it does.
    problem: str = ""
    #: Seconds since 1970 by its clock.
    time: float | None = None
    numpy: str = ""
    #: Requested paths that it cannot read.
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterReport:
    """What a cluster reports; if the head lacks a library, the first three fields alone."""

    #: Of the head, with the code of the job.
    versions: Versions
    #: Version of the head's own sumgrad; empty if it has none.
    installed: str
    head: NodeReport
    #: All machines with Ray, the head included.
    nodes: tuple[NodeReport, ...] = ()
    cpus: float = 0.0
    free_cpus: float = 0.0
    #: Bytes.
    memory: float = 0.0
    free_memory: float = 0.0
    #: MLFLOW_TRACKING_URI of the head, redacted, and why the head cannot use it.
    mlflow_uri: str = ""
    mlflow_problem: str | None = None
    #: SUMGRAD_OUTPUT of the head.
    output: str = ""


def main(paths_json: str) -> None:
    """Print the report, with what the machines can read of some paths."""
    report = make_report([str(path) for path in json.loads(paths_json)])
    print(REPORT_PREFIX + json.dumps(asdict(report)), flush=True)  # noqa: T201 - read by the client


def make_report(paths: list[str]) -> ClusterReport:
    """Return the report of the cluster that this process runs on."""
    versions = Versions.here()
    head = NodeReport(**inspect_node(paths))
    if versions.missing:
        return ClusterReport(versions, _installed(), head)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return ClusterReport(
        versions,
        _installed(),
        head,
        mlflow_uri=redact(uri),
        mlflow_problem=mlflow_problem(uri) if uri else None,
        output=os.environ.get("SUMGRAD_OUTPUT", ""),
        **_inspect_cluster(paths),
    )


def inspect_node(paths: list[str]) -> dict[str, Any]:
    """Return the fields of this machine's `NodeReport`."""
    return {
        "host": socket.gethostname(),
        "time": time.time(),
        "numpy": metadata.version("numpy"),
        "unreadable": tuple(path for path in paths if not _is_readable(path)),
    }


def _is_readable(path: str) -> bool:
    found = glob.glob(path) if glob.has_magic(path) else [path]  # noqa: PTH207 - absolute patterns
    return bool(found) and all(os.access(name, os.R_OK) and Path(name).exists() for name in found)


def _installed() -> str:
    """Return the version of the machine's own sumgrad, which the job's code hides."""
    found = [each.version for each in metadata.distributions(name="sumgrad")]
    return found[-1] if len(found) > 1 else ""


def _inspect_cluster(paths: list[str]) -> dict[str, Any]:
    """Return the fields of a `ClusterReport` that Ray knows, with reports of all machines."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    task: Any = ray.remote(inspect_node)
    results = [
        task.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(paths)
        for node in nodes
    ]
    ready, _ = ray.wait(results, num_returns=len(results), timeout=NODE_TIMEOUT_S)
    reports = []
    for node, result in zip(nodes, results, strict=True):
        host = str(node["NodeManagerHostname"])
        if result not in ready:
            reports.append(NodeReport(host, problem="does not answer"))
            continue
        try:
            reports.append(NodeReport(**ray.get(result)))
        except RayError as error:
            reports.append(NodeReport(host, problem=str(error).strip().splitlines()[-1]))
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return {
        "nodes": tuple(reports),
        "cpus": total.get("CPU", 0.0),
        "free_cpus": free.get("CPU", 0.0),
        "memory": total.get("memory", 0.0),
        "free_memory": free.get("memory", 0.0),
    }


if __name__ == "__main__":
    main(sys.argv[1])
