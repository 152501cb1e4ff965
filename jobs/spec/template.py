"""``sumgrad init``: a commented spec to start from, written out of the schema itself."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from sumgrad.jobs.errors import JobError
from sumgrad.jobs.spec.loader import example_names, own_section, read_example
from sumgrad.jobs.spec.schema import JobSpec, LayerSpec
from sumgrad.model.validation import did_you_mean

_HEAD = """\
# A sumgrad job. Run it with `sumgrad train FILE`; check it with `sumgrad config validate FILE`.
# What is commented out has the default shown.
"""
#: Values of the keys that have no default, and of those that a first job should see.
_STARTING: dict[str, Any] = {
    "name": "my-job",
    "data.train": "digits",
    "data.label": "digit",
    "data.validation": 0.1,
    "data.test": 0.2,
    "model.layers": [
        {"units": 64, "activation": "relu"},
        {"units": 10, "activation": "softmax"},
    ],
    "stop.max_epochs": 30,
}
_WIDTH = 92


def write_template(out: Path, example: str | None) -> None:
    """Write a spec file.

    Args:
        out: A file that does not exist yet.
        example: A shipped example to copy; None for every key there is, commented.

    Raises:
        JobError: No such example, or the file exists.
    """
    if example is not None and example not in example_names():
        raise JobError(
            f"no shipped example '{example}'", hint=did_you_mean(example, example_names())
        )
    text = starting_spec() if example is None else read_example(example)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobError(f"{out} exists already", hint="name another file with --out") from None
    except OSError as error:
        raise JobError(f"{out} cannot be written: {error.strerror}") from None


def describe_examples() -> list[str]:
    """Name and first line of each shipped example."""
    return [f"{name:15} {_first_comment(read_example(name))}" for name in example_names()]


def _first_comment(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def starting_spec() -> str:
    """A valid spec with every key, its meaning and its default."""
    return _HEAD + "\n".join(_section(JobSpec, "", "")) + "\n"


def _section(section: type[BaseModel], prefix: str, indent: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        inner = own_section(field.annotation)
        # A section that may be null is an offer: its default is none of it.
        if inner is not None and field.default is not None:
            yield ""
            yield from _comment(inner.__doc__ or "", indent)
            yield f"{indent}{name}:"
            yield from _section(inner, f"{key}.", f"{indent}  ")
            continue
        yield from _comment(field.description or "", indent)
        yield from _entry(name, key, field.default, indent)


def _entry(name: str, key: str, default: Any, indent: str) -> Iterator[str]:
    given = key in _STARTING
    value = _STARTING[key] if given else default
    if isinstance(value, list):
        yield f"{indent}{name}:"
        yield from (f"{indent}  - {_flow(item)}" for item in value)
        yield from _layer_keys(indent)
        return
    yield f"{indent}{'' if given else '# '}{name}: {_flow(value)}"


def _layer_keys(indent: str) -> Iterator[str]:
    for name, field in LayerSpec.model_fields.items():
        yield from _comment(f"{name}: {field.description}", f"{indent}  ")


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()


def _comment(text: str, indent: str) -> Iterator[str]:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH - len(indent))
    yield from (f"{indent}# {line}" for line in lines)
