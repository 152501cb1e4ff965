"""A spec as text."""

from collections.abc import Mapping
from typing import Any

import yaml

from sumgrad.jobs.spec.schema import JobSpec

#: What a number begins with, in any YAML.
_NUMERIC = frozenset("+-.0123456789")


def dump_spec(spec: JobSpec) -> str:
    """The resolved spec, every default filled in, as a file that gives the same job again."""
    return dump_yaml(spec.model_dump(mode="json"))


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Plain values as YAML that `sumgrad.jobs.support.yaml` reads as the same values."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every text that begins as numbers do, for PyYAML has other ones than our specs.

    And escapes line breaks, of which YAML makes one kind out of several.
    """


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if not text.isprintable() else "'" if text[:1] in _NUMERIC else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)
