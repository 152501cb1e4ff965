"""Write `kubernetes.json`: the part of Kubernetes's schemas that the manifests can need.

``python -m tests.kuberay.reduce FILE``, where FILE is the ``_definitions.json`` of a folder
``v1.35.0-local-strict`` in the package ``kubernetes-validate``, which keeps Kubernetes's published
OpenAPI definitions as JSON schemas. Run it by hand to change the version.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

#: Kinds that the manifests may contain or refer to.
ROOTS = (
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.api.core.v1.Service",
)
#: An amount, such as 500m or 4Gi: Kubernetes accepts any text, KubeRay's CRDs this pattern.
QUANTITY = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]"
    r"|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
}
_QUANTITY_NAME = "io.k8s.apimachinery.pkg.api.resource.Quantity"
RESULT = Path(__file__).with_name("kubernetes.json")
_HEAD = {
    "$comment": "Kubernetes 1.35, Apache-2.0; made by reduce.py",
    "$id": "kubernetes.json",
    "$schema": "https://json-schema.org/draft/2020-12/schema",
}


def tidy(value: Any) -> Any:
    """Return a schema without descriptions, server extensions and null types."""
    if isinstance(value, dict):
        return {
            name: _leaf(name, inner)
            for name, inner in value.items()
            if not (name == "description" and isinstance(inner, str))
            and not name.startswith("x-kubernetes-")
        }
    if isinstance(value, list):
        return [tidy(inner) for inner in value]
    return value


def _leaf(name: str, value: Any) -> Any:
    if name == "$ref":
        return "#/$defs/" + value.rpartition("/")[2]
    if name == "type" and isinstance(value, list):
        return next(kind for kind in value if kind != "null")
    return tidy(value)


def reachable(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the roots and all definitions that they refer to, by name."""
    found: dict[str, Any] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = QUANTITY if name == _QUANTITY_NAME else tidy(definitions[name])
            waiting += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(found[name]))
    return dict(sorted(found.items()))


def main(source: Path) -> None:
    """Write the file, one definition per line."""
    found = reachable(json.loads(source.read_text())["$defs"])
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    head = json.dumps(_HEAD).removesuffix("}")
    RESULT.write_text(f'{head}, "$defs": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
