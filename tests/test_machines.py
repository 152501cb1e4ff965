"""The files of docs/machines: manifests against their schemas, and Ray's launcher file."""

import copy
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry, Resource

from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.yaml import parse_yaml

ROOT = Path(__file__).parents[1]
MACHINES = ROOT / "docs" / "machines"
SCHEMAS = ROOT / "tests" / "kuberay"
MANIFESTS = ("kuberay-cluster.yaml", "kuberay-job.yaml")
#: Kinds of Kubernetes itself that the manifests contain.
PLAIN = {
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
}

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PINS = dict(re.findall(r"(?m)^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text()))


# --- Kubernetes


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MACHINES / name).read_text()))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    return next(each for each in documents(name) if each["kind"] == kind)


def cluster_of(name: str) -> dict[str, Any]:
    """Return the part of a manifest that describes a Ray cluster."""
    if name == "kuberay-cluster.yaml":
        spec: dict[str, Any] = of_kind(name, "RayCluster")["spec"]
        return spec
    job: dict[str, Any] = of_kind(name, "RayJob")["spec"]["rayClusterSpec"]
    return job


def ray_pods(name: str) -> list[dict[str, Any]]:
    """Return the pods of head and workers."""
    cluster = cluster_of(name)
    return [
        group["template"]["spec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]


def pods(name: str) -> list[dict[str, Any]]:
    """Return all pods, the submitter's included."""
    submitter = [
        each["spec"]["submitterPodTemplate"]["spec"]
        for each in documents(name)
        if "submitterPodTemplate" in each.get("spec", {})
    ]
    return ray_pods(name) + submitter


def environment(pod: dict[str, Any]) -> dict[str, str]:
    (container,) = pod["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


@pytest.fixture(scope="module")
def faults() -> "Faults":
    return Faults()


class Faults:
    """Finds the violations of schemas in a document of a manifest."""

    def __init__(self) -> None:
        schemas = {
            "kubernetes.json": json.loads((SCHEMAS / "kubernetes.json").read_text()),
            "kuberay.yaml": yaml.safe_load((SCHEMAS / "kuberay.yaml").read_text()),
        }
        registry = Registry().with_resources(
            (name, Resource.from_contents(schema)) for name, schema in schemas.items()
        )

        def checker(reference: str) -> Draft202012Validator:
            return Draft202012Validator({"$ref": reference}, registry=registry)

        self._checkers = {
            "RayCluster": checker("kuberay.yaml#/$defs/RayCluster"),
            "RayJob": checker("kuberay.yaml#/$defs/RayJob"),
            **{kind: checker(f"kubernetes.json#/$defs/{name}") for kind, name in PLAIN.items()},
        }

    def __call__(self, document: dict[str, Any]) -> list[str]:
        found = self._checkers[document["kind"]].iter_errors(document)
        return [f"{each.json_path}: {each.message}" for each in found]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_pass_their_schemas(faults: Faults, name: str) -> None:
    assert documents(name)
    for document in documents(name):
        assert faults(document) == []


def keys_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every key of a document."""
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield (*path, key)
        yield from keys_of(inner, (*path, key))
    for number, inner in enumerate(value if isinstance(value, list) else ()):
        yield from keys_of(inner, (*path, number))


#: The user chooses the names of keys below these.
FREE = {"data", "rayStartParams", "nodeSelector", "requests", "limits"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_misspelled_field_is_found(faults: Faults, name: str) -> None:
    count = 0
    for document in documents(name):
        for path in list(keys_of(document)):
            if path == ("kind",) or FREE & set(path[:-1]):
                continue
            misspelled = copy.deepcopy(document)
            parent = misspelled
            for step in path[:-1]:
                parent = parent[step]
            parent[f"{path[-1]}s"] = parent.pop(path[-1])
            assert faults(misspelled), path
            count += 1
    assert count > 20


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rayVersion", 2.6),
        ("authOptions.mode", "tokens"),
        ("headGroupSpec.rayStartParams.num-cpus", 0),
        ("workerGroupSpecs.0.replicas", "3"),
        ("workerGroupSpecs.0.template.spec.containers.0.resources.limits.memory", "8GiB"),
        ("headGroupSpec.template.spec.securityContext.runAsUser", "sumgrad"),
        ("headGroupSpec.template.spec.containers.0.env.0.value", 5),
        ("headGroupSpec.template.spec.volumes", None),
    ],
)
def test_a_wrong_value_is_found(faults: Faults, path: str, value: object) -> None:
    cluster = of_kind("kuberay-cluster.yaml", "RayCluster")
    parent = cluster["spec"]
    *steps, last = path.split(".")
    for step in steps:
        parent = parent[int(step) if step.isdigit() else step]
    assert last in parent
    parent[last] = value
    assert faults(cluster)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_name_the_current_versions(name: str) -> None:
    assert cluster_of(name)["rayVersion"] == PINS["ray"] == metadata.version("ray")
    for pod in pods(name):
        assert {each["image"] for each in pod["containers"]} == {f"sumgrad:{VERSION}"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_allowed_in_a_restricted_namespace(name: str) -> None:
    user = re.search(r"useradd --uid (\d+) .* sumgrad", (ROOT / "Dockerfile").read_text())
    assert user is not None
    for pod in pods(name):
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == int(user[1])
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_get_the_token_from_a_secret_and_share_their_arithmetic(name: str) -> None:
    assert cluster_of(name)["authOptions"] == {"mode": "token", "secretName": "sumgrad-token"}
    head, *workers = (environment(pod) for pod in ray_pods(name))
    assert workers
    for each in (head, *workers):
        # KubeRay sets both, unless they are set already.
        assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & set(each)
    for variable in ("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES"):
        assert len({each[variable] for each in (head, *workers)}) == 1
    assert {"MLFLOW_TRACKING_URI", "RAY_JOB_STOP_WAIT_TIME_S"} <= set(head)


@pytest.mark.parametrize("name", MANIFESTS)
def test_volumes_exist(name: str) -> None:
    claims = {
        each["metadata"]["name"]
        for each in documents("kuberay-cluster.yaml")
        if each["kind"] == "PersistentVolumeClaim"
    }
    maps = {each["metadata"]["name"] for each in documents(name) if each["kind"] == "ConfigMap"}
    for pod in pods(name):
        volumes = {each["name"]: each for each in pod.get("volumes", [])}
        mounts = [each for c in pod["containers"] for each in c.get("volumeMounts", [])]
        assert {each["name"] for each in mounts} == set(volumes)
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            elif "secret" in volume:
                assert volume["secret"] == {
                    "secretName": cluster_of(name)["authOptions"]["secretName"]
                }
            else:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


@pytest.mark.parametrize("name", MANIFESTS)
def test_only_the_head_mounts_mlflows_token(name: str) -> None:
    head, *workers = ray_pods(name)
    (container,) = head["containers"]
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    assert mounts["token"]["readOnly"] is True
    file = Path(environment(head)["SUMGRAD_TRACKING_TOKEN_FILE"])
    assert file == Path(mounts["token"]["mountPath"]) / "auth_token"
    # The page makes the Secret with the same key.
    page = (ROOT / "docs" / "machines.md").read_text()
    assert f"--from-file={file.name}=" in page
    for worker in workers:
        assert "SUMGRAD_TRACKING_TOKEN_FILE" not in environment(worker)


def test_the_job_of_the_manifest_is_valid() -> None:
    job = of_kind("kuberay-job.yaml", "RayJob")["spec"]
    program, verb, spec, *options = shlex.split(job["entrypoint"])
    assert (program, verb, options) == ("sumgrad", "train", ["--json"])
    head = ray_pods("kuberay-job.yaml")[0]
    (container,) = head["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert Path(spec).parent == Path(mounts["job"])
    text = of_kind("kuberay-job.yaml", "ConfigMap")["data"][Path(spec).name]
    parsed = JobSpec.model_validate(parse_yaml(text, spec).value)
    assert str(parsed.output) == mounts["runs"]
    assert parsed.cluster.address == "auto"
    # The maximum number of workers is the number of CPUs.
    (group,) = cluster_of("kuberay-job.yaml")["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert not isinstance(parsed.cluster.workers, int)
    assert parsed.cluster.workers is not None
    assert parsed.cluster.workers.max == group["maxReplicas"] * int(limits["cpu"])


def test_the_page_names_the_current_versions_and_links_every_file() -> None:
    page = (ROOT / "docs" / "machines.md").read_text()
    assert set(re.findall(r"ray(?:\[default\])?==([\d.]+)", page)) == {PINS["ray"]}
    assert set(re.findall(r"sumgrad:([\d.]+)", page)) == {VERSION}
    for file in MACHINES.iterdir():
        assert f"](machines/{file.name})" in page


# --- Ray's cluster launcher


def launcher() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((MACHINES / "cluster-launcher.yaml").read_text())
    return config


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Return what `ray up` makes of the file before it calls the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    result: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(result)
    return result


def test_ray_accepts_the_launcher_file() -> None:
    config = prepared(launcher())
    assert config["head_node_type"] == "head"
    assert config["available_node_types"]["workers"]["max_workers"] == config["max_workers"]
    assert set(config) >= set(launcher())


@pytest.mark.parametrize(
    "path", ["setup_commands", "auth.ssh_user", "available_node_types.workers.node_config"]
)
def test_ray_refuses_a_misspelled_key_of_the_launcher_file(path: str) -> None:
    from jsonschema import ValidationError

    config = parent = launcher()
    *steps, last = path.split(".")
    for step in steps:
        parent = parent[step]
    parent[f"{last}s"] = parent.pop(last)
    with pytest.raises(ValidationError, match=f"{last}s"):
        prepared(config)


def test_the_launcher_installs_the_current_version_and_requires_the_token() -> None:
    config = launcher()
    commands = "\n".join(
        command for key, value in config.items() if key.endswith("_commands") for command in value
    )
    wheels = re.findall(r"sumgrad-[\w.]+-py3-none-any\.whl", commands)
    assert wheels == [f"sumgrad-{VERSION}-py3-none-any.whl"]
    assert "constraints.txt" in commands
    for start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all(". ~/sumgrad/environment" in command for command in start)
    variables = dict(re.findall(r'(?m)^export (\w+)="?([^"\n]*)', commands))
    assert variables["RAY_AUTH_MODE"] == "token"
    (files,) = config["file_mounts"]
    assert variables["RAY_AUTH_TOKEN_PATH"].replace("$HOME", "~").startswith(f"{files}/")
    assert "--dashboard-host=127.0.0.1" in commands
    platforms = {
        each["node_config"]["minCpuPlatform"] for each in config["available_node_types"].values()
    }
    assert len(platforms) == 1
