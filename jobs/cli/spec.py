"""Commands about job specs: init, config, gradcheck."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sumgrad.jobs.cli.options import Set, Spec

app = typer.Typer()


@app.command()
def init(
    example: Annotated[
        str | None, typer.Argument(help="A shipped example to start from; see --list.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("job.yaml"),
    list_examples: Annotated[
        bool, typer.Option("--list", help="List the shipped examples and write nothing.")
    ] = False,
) -> None:
    """Write a commented job spec to start from."""
    from sumgrad.jobs.spec.text import describe_examples, write_template

    if list_examples:
        typer.echo("\n".join(describe_examples()))
        return
    write_template(out, example)
    commands = f"  sumgrad config validate {out}\n  sumgrad train {out}"
    typer.echo(f"{out} written. Edit it, then:\n{commands}")


@app.command()
def gradcheck(
    spec: Spec,
    overrides: Set = None,
    features: Annotated[
        int | None,
        typer.Option(min=1, help="Use this many random features instead of the job's data."),
    ] = None,
) -> None:
    """Check a network's gradients against numeric derivatives."""
    from sumgrad.jobs.runs.gradient_check import check_spec_gradients, format_table
    from sumgrad.jobs.spec.loader import load_spec

    checks = check_spec_gradients(load_spec(spec, overrides or []).spec, features)
    typer.echo("\n".join(format_table(checks)))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


config = typer.Typer(help="Show and validate job specs, and print their schema.")
app.add_typer(config, name="config")


@config.command()
def show(spec: Spec, overrides: Set = None) -> None:
    """Print the resolved spec as YAML, every default filled in.

    Secrets in addresses are printed as ***.
    """
    from sumgrad.jobs.spec.loader import load_spec
    from sumgrad.jobs.spec.text import dump_spec
    from sumgrad.jobs.support.redaction import redact, redact_text

    job = load_spec(spec, overrides or []).spec
    tracking = job.tracking.model_copy(update={"uri": redact(job.tracking.uri)})
    typer.echo(redact_text(dump_spec(job.model_copy(update={"tracking": tracking}))), nl=False)


@config.command()
def validate(spec: Spec, overrides: Set = None) -> None:
    """Check a spec; the exit code is 2 if it is invalid."""
    from sumgrad.jobs.spec.loader import load_spec

    loaded = load_spec(spec, overrides or [])
    typer.echo(f"{loaded.origin}: '{loaded.spec.name}' is a valid job spec")


@config.command()
def schema(
    keys: Annotated[bool, typer.Option("--keys", help="Only list the keys, dotted.")] = False,
) -> None:
    """Print the JSON schema of job specs."""
    from sumgrad.jobs.spec.schema import JobSpec
    from sumgrad.jobs.support.validation import all_keys

    if keys:
        typer.echo("\n".join(all_keys(JobSpec)))
    else:
        typer.echo(json.dumps(JobSpec.model_json_schema(), indent=2, ensure_ascii=False))
