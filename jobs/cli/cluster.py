"""Commands about clusters: named ones, one on this machine, and a check-up."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sumgrad.jobs.cli.options import Cluster, Json, print_result

if TYPE_CHECKING:
    from sumgrad.jobs.config import clusters
    from sumgrad.jobs.service.local.cluster import LocalCluster

app = typer.Typer()
cluster = typer.Typer(help="Name and select clusters, or run one on this machine.")
app.add_typer(cluster, name="cluster")

Name = Annotated[str, typer.Argument(help="A cluster's name.")]


@app.command()
def doctor(
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A path that the cluster should be able to read; repeatable."),
    ] = None,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Check that a cluster can run jobs, and explain what is wrong.

    Exit code 3 if a check fails.
    """
    from sumgrad.jobs.config.clusters import select_cluster
    from sumgrad.jobs.service.client.doctor import run_checks, table

    checks = run_checks(select_cluster(cluster), data or [])
    print_result([asdict(check) for check in checks], table(checks), as_json)
    if any(check.status == "FAIL" for check in checks):
        raise typer.Exit(3)


@cluster.command()
def add(
    name: Name,
    address: Annotated[str, typer.Argument(help="Its Ray dashboard: http://HOST:8265.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="URL of the cluster's MLflow server as seen from this machine."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file that holds its token and nothing else.")
    ] = None,
    tracking_token_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds the token of its MLflow; it may be the same file."),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates to trust, for an https address.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Name a cluster, or replace the one of that name."""
    from sumgrad.jobs.config import clusters, tokens
    from sumgrad.jobs.errors import ClusterConfigError

    if name == clusters.LOCAL_NAME:
        problem = f"the name '{name}' belongs to the cluster of 'sumgrad cluster up'"
        raise ClusterConfigError(problem, hint="choose another name")
    files = {
        "token_file": token_file,
        "ca_file": ca_file,
        "tracking_token_file": tracking_token_file,
    }
    options: dict[str, object] = {key: path and path.absolute() for key, path in files.items()}
    options |= {"address": address, "tracking_uri": tracking_uri}
    config = clusters.read_cluster_config().with_cluster(name, options)
    new = config.clusters[name]
    new.token()
    if new.tracking_token_file:
        tokens.read_token(new.tracking_token_file, "--tracking-token-file")
    clusters.write_cluster_config(config)
    lines = [
        f"{name} is {new.address}, in {clusters.cluster_config_path()}",
        f"Make it the default:  sumgrad cluster use {name}",
    ]
    print_result(_as_json(new, config.current), lines, as_json)


@cluster.command()
def use(
    name: Annotated[str | None, typer.Argument(help="A cluster's name.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Have no default cluster.")] = False,
    as_json: Json = False,
) -> None:
    """Make a cluster the default of all commands."""
    from sumgrad.jobs.config.clusters import read_cluster_config, write_cluster_config

    if (name is None) is not none:
        raise typer.BadParameter("give either a cluster's name or --none")
    config = read_cluster_config().using(name)
    value: dict[str, Any] = {"current": None}
    line = "there is no default cluster now"
    if name is not None:
        chosen = config.clusters[name]
        value, line = _as_json(chosen, name), f"the default cluster is {chosen.label}"
    write_cluster_config(config)
    print_result(value, [line], as_json)


@cluster.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Remove a cluster's name; the cluster is not touched."""
    from sumgrad.jobs.config.clusters import read_cluster_config, write_cluster_config

    config = read_cluster_config().without(name)
    write_cluster_config(config)
    print_result({"name": name, "current": config.current}, [f"{name} was removed"], as_json)


@cluster.command("list")
def list_clusters(as_json: Json = False) -> None:
    """List the named clusters; a star marks the default."""
    from sumgrad.jobs.config.clusters import read_cluster_config
    from sumgrad.jobs.support.redaction import redact

    config = read_cluster_config()
    lines = []
    for name, each in sorted(config.clusters.items()):
        mark, tracking = "*" if name == config.current else " ", redact(each.tracking_uri or "")
        lines.append(f"{mark} {name:<16} {each.address}  {tracking}".rstrip())
    if not lines:
        lines = ["no clusters yet; try sumgrad cluster add NAME URL, or sumgrad cluster up"]
    value = [_as_json(each, config.current) for each in config.clusters.values()]
    print_result(value, lines, as_json)


def _as_json(named: "clusters.Cluster", current: str | None) -> dict[str, Any]:
    from sumgrad.jobs.support.redaction import redact

    return {
        "name": named.name,
        **named.model_dump(mode="json", exclude={"ca_file"}),
        "tracking_uri": redact(named.tracking_uri) if named.tracking_uri else None,
        "is_current": named.name == current,
    }


@cluster.command()
def up(
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs for jobs; default: all.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of Ray's dashboard.", show_default="8265"),
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of MLflow.", show_default="5000")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start Ray and MLflow on this machine, in the background.

    They listen on loopback alone and require a token. The cluster becomes the default.
    """
    from sumgrad.jobs.service.local.cluster import status_lines
    from sumgrad.jobs.service.local.cluster import up as start

    local, is_new = start(cpus=cpus, port=port, mlflow_port=mlflow_port)
    lines = [
        *status_lines(local),
        *([] if is_new else ["It was already running."]),
        "Submit a job:  sumgrad submit digits --wait",
        "Stop it:       sumgrad cluster down",
    ]
    print_result({"is_new": is_new} | _addresses(local), lines, as_json)


def _addresses(local: "LocalCluster | None") -> dict[str, str | None]:
    """Return where the cluster on this machine is, for JSON."""
    return {
        "address": local.address if local else None,
        "tracking_uri": local.tracking_uri if local else None,
        "token_file": str(local.cluster.token_file) if local else None,
    }


@cluster.command()
def status(as_json: Json = False) -> None:
    """Show the cluster on this machine.

    Exit code 3 if it does not run or its token cannot be read.
    """
    from sumgrad.jobs.errors import ClusterConfigError
    from sumgrad.jobs.service.local.cluster import running, status_lines

    local = running()
    is_up = local is not None and local.is_alive
    lines = ["no cluster runs on this machine; sumgrad cluster up starts one"]
    problem = None
    if local is not None:
        lines = status_lines(local)
        try:
            local.cluster.token()
        except ClusterConfigError as error:
            problem = error.message
            lines += [f"problem  {problem}", f"         → {error.hint}"]
    print_result({"is_up": is_up, **_addresses(local), "problem": problem}, lines, as_json)
    if not is_up or problem:
        raise typer.Exit(3)


@cluster.command()
def down(as_json: Json = False) -> None:
    """Stop the cluster on this machine; its jobs are saved first.

    The curves in MLflow and the runs' folders stay.
    """
    from sumgrad.jobs.config.directories import local_cluster_directory
    from sumgrad.jobs.service.local.cluster import down as stop

    was_up, folder = stop(), local_cluster_directory()
    line = f"stopped; curves and runs stay in {folder}" if was_up else "no local cluster is running"
    print_result({"was_up": was_up, "folder": str(folder)}, [line], as_json)
