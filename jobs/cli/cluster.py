"""``sumgrad cluster``: clusters with names, and one on this machine."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sumgrad.jobs.cli.options import Json

if TYPE_CHECKING:
    from sumgrad.jobs.config.clusters import Cluster
    from sumgrad.jobs.service.local.cluster import LocalCluster

app = typer.Typer(rich_markup_mode=None, help="Name clusters, and run one on this machine.")

Name = Annotated[str, typer.Argument(help="A cluster's name.")]


def _say(lines: Sequence[str], facts: Mapping[str, Any], as_json: bool) -> None:
    """Print lines for a person, or the facts for a script."""
    typer.echo(json.dumps(facts) if as_json else "\n".join(lines))


@app.command()
def add(
    name: Name,
    address: Annotated[str, typer.Argument(help="Of its Ray dashboard: http://HOST:8265.")],
    tracking_uri: Annotated[
        str | None, typer.Option(help="Its MLflow, as it is reached from here.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file that holds its token and nothing else.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates to trust, for an https address.")
    ] = None,
    tracking_token_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds its MLflow's token; it may be the same one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a cluster a name; an earlier one of that name is replaced."""
    from sumgrad.jobs.config.clusters import (
        Cluster,
        check_cluster_name,
        check_tracking_token,
        cluster_config_path,
        normalize_address,
        read_cluster_config,
        write_cluster_config,
    )
    from sumgrad.jobs.config.tokens import read_token

    cluster = Cluster(
        normalize_address(address),
        check_cluster_name(name),
        tracking_uri,
        token_file.absolute() if token_file else None,
        ca_file.absolute() if ca_file else None,
        tracking_token_file.absolute() if tracking_token_file else None,
    )
    cluster.token()
    if path := check_tracking_token(cluster).tracking_token_file:
        read_token(path, "--tracking-token-file")
    contexts = read_cluster_config().with_cluster(cluster)
    write_cluster_config(contexts)
    lines = [
        f"{name} is {cluster.address}, in {cluster_config_path()}",
        f"Have commands mean it:  sumgrad cluster use {name}",
    ]
    _say(lines, _facts(cluster, contexts.current), as_json)


@app.command()
def use(name: Name, as_json: Json = False) -> None:
    """Have commands mean this cluster where none is named."""
    from sumgrad.jobs.config.clusters import read_cluster_config, write_cluster_config

    contexts = read_cluster_config().using(name)
    write_cluster_config(contexts)
    cluster = contexts.clusters[name]
    _say([f"commands mean {cluster.label} now"], _facts(cluster, name), as_json)


@app.command()
def unuse(as_json: Json = False) -> None:
    """Have no cluster be meant where none is named."""
    from dataclasses import replace

    from sumgrad.jobs.config.clusters import read_cluster_config, write_cluster_config

    write_cluster_config(replace(read_cluster_config(), current=None))
    _say(["no cluster is meant where none is named"], {"current": None}, as_json)


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Forget a cluster's name; the cluster is not touched."""
    from sumgrad.jobs.config.clusters import read_cluster_config, write_cluster_config

    contexts = read_cluster_config().without(name)
    write_cluster_config(contexts)
    _say([f"{name} is forgotten"], {"name": name, "current": contexts.current}, as_json)


@app.command("list")
def list_clusters(as_json: Json = False) -> None:
    """The named clusters; a star marks the one that is meant where none is named."""
    from sumgrad.jobs.config.clusters import read_cluster_config
    from sumgrad.jobs.support.redaction import redact

    contexts = read_cluster_config()
    if as_json:
        typer.echo(json.dumps([_facts(c, contexts.current) for c in contexts.clusters.values()]))
        return
    if not contexts.clusters:
        typer.echo("none yet; sumgrad cluster add NAME URL, or sumgrad cluster up")
    for name, cluster in sorted(contexts.clusters.items()):
        mark = "*" if name == contexts.current else " "
        tracking = redact(cluster.tracking_uri or "")
        typer.echo(f"{mark} {name:<16} {cluster.address}  {tracking}".rstrip())


def _facts(cluster: "Cluster", current: str | None) -> dict[str, Any]:
    from sumgrad.jobs.support.redaction import redact

    return {
        "name": cluster.name,
        "address": cluster.address,
        "tracking_uri": redact(cluster.tracking_uri) if cluster.tracking_uri else None,
        "token_file": str(cluster.token_file) if cluster.token_file else None,
        "tracking_token_file": (
            str(cluster.tracking_token_file) if cluster.tracking_token_file else None
        ),
        "is_current": cluster.name == current,
    }


@app.command()
def up(
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs for jobs; by default all there are.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Of Ray's dashboard.", show_default="8265"),
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of MLflow.", show_default="5000")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start Ray and MLflow on this machine, and leave them running.

    On loopback alone, and with a token. Commands mean this cluster from then on.
    """
    from sumgrad.jobs.service.local.cluster import status_lines
    from sumgrad.jobs.service.local.cluster import up as start

    there, is_new = start(
        lambda line: typer.echo(line, err=True), cpus=cpus, port=port, mlflow_port=mlflow_port
    )
    lines = [
        *status_lines(there),
        *([] if is_new else ["It ran already."]),
        "Hand a job in:  sumgrad submit digits --wait",
        "End it:         sumgrad cluster down",
    ]
    _say(lines, {"is_new": is_new} | _places(there), as_json)


def _places(there: "LocalCluster | None") -> dict[str, str | None]:
    """Where the cluster on this machine is, for JSON."""
    return {
        "address": there.address if there else None,
        "tracking_uri": there.tracking_uri if there else None,
        "token_file": str(there.cluster.token_file) if there else None,
    }


@app.command()
def status(as_json: Json = False) -> None:
    """The cluster on this machine; exit code 3 if it does not run, or its token is lost."""
    from sumgrad.jobs.service.local.cluster import running, status_lines

    there = running()
    is_up = there is not None and there.ray.is_alive and there.mlflow.is_alive
    lines = ["no cluster runs on this machine; sumgrad cluster up starts one"]
    problem = None
    if there is not None:
        problem, hint = _token_problem(there.cluster)
        lines = status_lines(there) + (
            [f"problem  {problem}", f"         → {hint}"] if problem else []
        )
    _say(lines, {"is_up": is_up, **_places(there), "problem": problem}, as_json)
    if not is_up or problem:
        raise typer.Exit(3)


def _token_problem(cluster: "Cluster") -> tuple[str | None, str]:
    """Why nobody can show the cluster its token, if so, and what to do about it."""
    from sumgrad.jobs.config.token_hint import token_hint
    from sumgrad.jobs.errors import ClusterConfigError

    try:
        cluster.token()
    except ClusterConfigError as error:
        file = cluster.token_file
        return error.message, error.hint or (token_hint(file) if file else "")
    return None, ""


@app.command()
def down(as_json: Json = False) -> None:
    """End the cluster on this machine; jobs are saved first, curves and runs stay."""
    from sumgrad.jobs.service.local.cluster import down as end
    from sumgrad.jobs.service.local.cluster import folder

    was_up = end(lambda line: typer.echo(line, err=True))
    said = f"ended; curves and runs stay in {folder()}"
    line = said if was_up else "no cluster of ours runs on this machine"
    _say([line], {"was_up": was_up, "folder": str(folder())}, as_json)
