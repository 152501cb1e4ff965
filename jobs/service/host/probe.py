"""The checks of ``sumgrad doctor`` that a short job makes on the head of a cluster.

``python -P -m sumgrad.jobs.service.host.probe VERSIONS PATH…``: the versions, as JSON, on the
user's machine, and paths that the cluster should be able to read.
"""

import glob
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from sumgrad.jobs.config.tracking_uri import URI
from sumgrad.jobs.service.checks import REPORT_PREFIX, Check, Report, check_mlflow
from sumgrad.jobs.service.versions import INSTALL_HINT, Versions

NODE_TIMEOUT_S = 20.0


class NodeReport(NamedTuple):
    """One machine of a cluster, or why it does not answer."""

    host: str
    problem: str = ""
    clock: float | None = None
    numpy: str = ""
    unreadable: tuple[str, ...] = ()


def main(versions: str, *data: str) -> None:
    """Print the report on the cluster that this process runs on."""
    report = run_head_checks(TypeAdapter(Versions).validate_json(versions), data)
    print(REPORT_PREFIX + report.model_dump_json(), flush=True)  # noqa: T201 - the client reads it


def run_head_checks(client: Versions, data: Sequence[str] = ()) -> Report:
    """Return the report; if the head lacks a library, only that check.

    `client` are the versions on the user's machine; the cluster should be able to read `data`.
    """
    head = Versions.here()
    if head.missing:
        text = f"the cluster's head lacks {', '.join(head.missing)}"
        return Report(checks=(Check("versions", "FAIL", text, f"there: {INSTALL_HINT}"),))
    nodes, total, free = _ask_ray(data)
    checks = (
        _check_versions(client, head),
        _check_sumgrad(client),
        _check_nodes(nodes),
        _check_resources(total, free),
        _check_mlflow(os.environ.get(URI, "")),
        *([_check_data(nodes, data)] if data else []),
        _check_output(os.environ.get("SUMGRAD_OUTPUT", "")),
    )
    clocks = tuple(node.clock for node in nodes if node.clock is not None)
    return Report(checks=checks, clocks=clocks)


def inspect_node(paths: Sequence[str]) -> NodeReport:
    """Return this machine's name, clock, NumPy version and unreadable paths."""
    unreadable = tuple(path for path in paths if not _is_readable(path))
    return NodeReport(socket.gethostname(), "", time.time(), metadata.version("numpy"), unreadable)


def _is_readable(path: str) -> bool:
    found = glob.glob(path) if glob.has_magic(path) else [path]  # noqa: PTH207 - absolute patterns
    return bool(found) and all(os.access(name, os.R_OK) and Path(name).exists() for name in found)


def _ask_ray(paths: Sequence[str]) -> tuple[list[NodeReport], dict[str, float], dict[str, float]]:
    """Return all machines, the cluster's resources, and those that are free."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    task: Any = ray.remote(inspect_node)
    refs = [
        task.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(paths)
        for node in alive
    ]
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=NODE_TIMEOUT_S)
    nodes = []
    for node, ref in zip(alive, refs, strict=True):
        host = str(node["NodeManagerHostname"])
        try:
            nodes.append(ray.get(ref) if ref in ready else NodeReport(host, "does not answer"))
        except RayError as error:
            nodes.append(NodeReport(host, str(error).strip().splitlines()[-1]))
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return nodes, total, free


def _check_versions(client: Versions, head: Versions) -> Check:
    if differences := client.differences(head):
        hint = "the weights may differ; 'submit' requires --allow-version-mismatch"
        return Check("versions", "FAIL", "; ".join(differences.values()), hint)
    return Check("versions", "ok", f"Python {head.python} and the libraries are the same")


def _check_sumgrad(client: Versions) -> Check:
    # The code that came with this job hides an installed sumgrad.
    found = [each.version for each in metadata.distributions(name="sumgrad")]
    installed = f"has {found[-1]}" if len(found) > 1 else "has none of its own"
    text = f"the cluster {installed}; jobs run the code of this one, {client.sumgrad}"
    return Check("sumgrad", "ok", text)


def _check_nodes(nodes: Sequence[NodeReport]) -> Check:
    if failed := [f"{node.host}: {node.problem}" for node in nodes if node.problem]:
        return Check("nodes", "FAIL", "; ".join(failed), "look at 'ray status' on the head")
    numpys = {node.numpy for node in nodes}
    if len(numpys) > 1:
        text = f"machines have different NumPys: {', '.join(sorted(numpys))}"
        return Check("nodes", "FAIL", text, "install the same versions on all of them")
    names = ", ".join(node.host for node in nodes)
    return Check("nodes", "ok", f"{len(nodes)} answer: {names}")


def _check_resources(total: Mapping[str, float], free: Mapping[str, float]) -> Check:
    cpus, free_cpus = int(total.get("CPU", 0)), int(free.get("CPU", 0))
    memory, free_memory = (each.get("memory", 0) / (1 << 30) for each in (total, free))
    text = f"{free_cpus} of {cpus} CPUs are free, {free_memory:.1f} of {memory:.1f} GiB of memory"
    if not cpus:
        return Check("resources", "FAIL", "the cluster has no CPUs", "add a node")
    if not free_cpus:
        return Check("resources", "warn", text, "a job waits as PENDING until some are free")
    return Check("resources", "ok", text)


def _check_mlflow(uri: str) -> Check:
    name = "MLflow from the head"
    if not uri:
        text = "the head's environment names none: curves go into a file on the head"
        return Check(name, "warn", text, f"set {URI} in the environment of 'ray start' on the head")
    return check_mlflow(name, uri)[0]


def _check_data(nodes: Sequence[NodeReport], data: Sequence[str]) -> Check:
    if unreadable := inspect_node(data).unreadable:
        text = f"the head cannot read {', '.join(unreadable)}"
        return Check("data", "FAIL", text, "jobs read their data on the head")
    if failed := sum(bool(node.unreadable) for node in nodes):
        text = f"the head can read them; {failed} of {len(nodes)} machines cannot, and need not"
        return Check("data", "ok", text)
    return Check("data", "ok", f"all machines can read {', '.join(data)}")


def _check_output(folder: str) -> Check:
    if folder:
        return Check("output", "ok", f"runs are kept in {folder} on the head")
    text = "runs are kept in ~/sumgrad on the head"
    hint = "set SUMGRAD_OUTPUT there to a folder that outlives the head, for 'resume' to find them"
    return Check("output", "warn", text, hint)


if __name__ == "__main__":
    main(*sys.argv[1:])
