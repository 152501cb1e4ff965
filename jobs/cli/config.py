"""``sumgrad config``: look at specs without running them."""

import json
from typing import Annotated

import typer

from sumgrad.jobs.cli.options import Set, Spec

app = typer.Typer(rich_markup_mode=None, help="Look at a job spec without running it.")


@app.command()
def show(spec: Spec, overrides: Set = None) -> None:
    """Print the resolved spec, every default filled in, as YAML; secrets of addresses as ***."""
    from sumgrad.jobs.spec.loader import load_spec
    from sumgrad.jobs.spec.text import dump_spec
    from sumgrad.jobs.tracking import redact, redact_text

    loaded = load_spec(spec, overrides or []).spec
    uri = redact(loaded.tracking.uri)
    shown = loaded.model_copy(update={"tracking": loaded.tracking.model_copy(update={"uri": uri})})
    typer.echo(redact_text(dump_spec(shown)), nl=False)


@app.command()
def validate(spec: Spec, overrides: Set = None) -> None:
    """Check a spec; exit code 2 and one line if it cannot be used."""
    from sumgrad.jobs.spec.loader import load_spec

    loaded = load_spec(spec, overrides or [])
    typer.echo(f"{loaded.origin}: '{loaded.spec.name}' is a valid job spec")


@app.command()
def schema(
    keys: Annotated[bool, typer.Option("--keys", help="Only list the keys, dotted.")] = False,
) -> None:
    """Print the JSON schema of job specs."""
    from sumgrad.jobs.spec.loader import all_keys
    from sumgrad.jobs.spec.schema import JobSpec

    if keys:
        typer.echo("\n".join(all_keys()))
    else:
        typer.echo(json.dumps(JobSpec.model_json_schema(), indent=2, ensure_ascii=False))
