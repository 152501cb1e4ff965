"""A spec as text."""

import yaml

from jobs.spec import JobSpec


def spec_as_yaml(spec: JobSpec) -> str:
    """The resolved spec, every default filled in, as a file that gives the same job again."""
    text: str = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
