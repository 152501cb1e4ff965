"""Specs as text: resolved as YAML, and commented as ``sumgrad init`` writes them."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from sumgrad.jobs.errors import JobError
from sumgrad.jobs.spec.loader import example_names, read_example
from sumgrad.jobs.spec.schema import JobSpec, LayerSpec
from sumgrad.jobs.support.validation import section_of
from sumgrad.model.validation import did_you_mean

_HEADER = """\
# A sumgrad job. Check this file with `sumgrad config validate FILE`, run it with
# `sumgrad train FILE`. Keys that are commented out show their defaults.
"""
#: Values of the keys that have no default, and of those that a first job sets.
_VALUES: dict[str, Any] = {
    "name": "my-job",
    "data.train": "digits",
    "data.label": "digit",
    "data.validation": 0.1,
    "data.test": 0.2,
    "model.layers": [{"units": 64, "activation": "relu"}, {"units": 10, "activation": "softmax"}],
    "stop.max_epochs": 30,
}
_WIDTH = 92


def dump_spec(spec: JobSpec) -> str:
    """Return the resolved spec, with every default, as YAML that loads as the same spec."""
    return dump_yaml(spec.model_dump(mode="json"))


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return plain values as YAML that `sumgrad.jobs.support.yaml` parses to the same values."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes strings that start like numbers, and escapes unprintable ones.

    PyYAML's rules for numbers differ from those of YAML 1.2, and YAML normalizes line breaks.
    """


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if not text.isprintable() else "'" if text[:1] in {*"+-.0123456789"} else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)


def write_template(out: Path, example: str | None) -> None:
    """Write a copy of a shipped example, or a commented spec with every key, to a new file.

    Raise `JobError` if the example does not exist, or the file exists or cannot be written.
    """
    if example is not None and example not in example_names():
        hint = did_you_mean(example, example_names())
        raise JobError(f"no shipped example '{example}'", hint=hint)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(spec_template() if example is None else read_example(example))
    except FileExistsError:
        raise JobError(f"{out} exists already", hint="choose another file with --out") from None
    except OSError as error:
        raise JobError(f"{out} cannot be written: {error.strerror}") from None


def describe_examples() -> list[str]:
    """Return a line for each shipped example: its name and its first comment."""
    return [
        f"{name:15} {read_example(name).partition(chr(10))[0].removeprefix('# ')}"
        for name in example_names()
    ]


def spec_template() -> str:
    """Return a valid spec with every key, its meaning and its default."""
    return _HEADER + "\n".join(_section(JobSpec, "", "")) + "\n"


def _section(section: type[BaseModel], prefix: str, indent: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        inner = section_of(field.annotation)
        # A section that is null by default stays a comment: its keys would switch it on.
        if inner is not None and field.default is not None:
            yield ""
            yield from _comment(inner.__doc__ or "", indent)
            yield f"{indent}{name}:"
            yield from _section(inner, f"{key}.", f"{indent}  ")
            continue
        yield from _comment(field.description or "", indent)
        yield from _entry(name, key, field.default, indent)


def _entry(name: str, key: str, default: Any, indent: str) -> Iterator[str]:
    value = _VALUES.get(key, default)
    if isinstance(value, list):
        yield f"{indent}{name}:"
        yield from (f"{indent}  - {_inline(item)}" for item in value)
        for field_name, field in LayerSpec.model_fields.items():
            yield from _comment(f"{field_name}: {field.description}", f"{indent}  ")
        return
    yield f"{indent}{'' if key in _VALUES else '# '}{name}: {_inline(value)}"


def _inline(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()


def _comment(text: str, indent: str) -> Iterator[str]:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH - len(indent))
    yield from (f"{indent}# {line}" for line in lines)
