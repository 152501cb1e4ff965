"""Write a spec as YAML."""

from collections.abc import Mapping
from typing import Any

import yaml

from sumgrad.jobs.spec.schema import JobSpec


def dump_spec(spec: JobSpec) -> str:
    """Return the resolved spec, with every default, as YAML that loads as the same spec."""
    return dump_yaml(spec.model_dump(mode="json"))


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return plain values as YAML that `sumgrad.jobs.support.yaml` parses to the same values."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes texts that start like numbers, and escapes unprintable ones.

    PyYAML's rules for numbers differ from those of YAML 1.2, and YAML normalizes line breaks.
    """


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if not text.isprintable() else "'" if text[:1] in {*"+-.0123456789"} else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)
