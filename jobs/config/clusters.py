"""Clusters that have names, as contexts have with kubectl and docker: a file of the user's.

``~/.config/sumgrad/clusters.yaml``::

    current: lab
    clusters:
      lab:
        address: http://127.0.0.1:8265       # Ray's dashboard, which takes jobs
        tracking_uri: http://127.0.0.1:5000  # MLflow, as it is reached from here
        token_file: /home/ada/lab.token
        tracking_token_file: /home/ada/lab.token  # for that MLflow alone
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sumgrad.jobs.config.clusters_file import MEND, context_error, place
from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.config.directories import user_directory
from sumgrad.jobs.config.tokens import check_token, expand_home, read_token
from sumgrad.jobs.errors import ClusterConfigError, SpecError
from sumgrad.jobs.support.files import write_text
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.yaml import MAX_BYTES, parse_yaml
from sumgrad.model.validation import did_you_mean

#: A cluster's name or address; Ray's own variables stand in for ours.
ADDRESS_VARIABLES = ("SUMGRAD_CLUSTER", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
#: Ray's own order.
TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TRACKING = "MLFLOW_TRACKING_URI"
CONFIG = "SUMGRAD_CONFIG"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


@dataclass(frozen=True)
class Cluster:
    """A cluster, as it is reached from here.

    Attributes:
        address: Of Ray's dashboard: ``http://host:8265``.
        name: Of its context; None for one that was given by its address.
        tracking_uri: Its MLflow; None where only the cluster knows it.
        token_file: A file that holds nothing but its token.
        ca_file: Certificates to trust, for an https address.
        tracking_token_file: A file that holds nothing but the token of its MLflow.
    """

    address: str
    name: str | None = None
    tracking_uri: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    tracking_token_file: Path | None = None

    @property
    def label(self) -> str:
        """What to call it in a line for a person."""
        return f"{self.name} ({self.address})" if self.name else self.address

    @property
    def option(self) -> str:
        """What to type after ``--cluster``."""
        return self.name or self.address

    @property
    def login(self) -> Credentials | None:
        """For its MLflow alone; None if the context names none."""
        if self.tracking_uri is None or self.tracking_token_file is None:
            return None
        what = f"tracking_token_file of cluster '{self.name}'"
        return Credentials(self.tracking_uri, self.tracking_token_file, what)

    def token(self) -> str | None:
        """The cluster's token; None if there is none to show.

        The context's file, for it is this cluster's; then ``RAY_AUTH_TOKEN``,
        ``RAY_AUTH_TOKEN_PATH``, and Ray's own file in the home directory.

        Raises:
            ClusterConfigError: A file cannot be read, holds none, or can be written by others.
        """
        if self.token_file is not None:
            return read_token(self.token_file, f"token_file of cluster '{self.name}'")
        if given := os.environ.get(TOKEN, "").strip():
            return check_token(given, TOKEN)
        if path := os.environ.get(TOKEN_PATH):
            return read_token(Path(path), TOKEN_PATH)
        own = Path(os.path.expanduser("~"), ".ray", "auth_token")  # noqa: PTH111 - raises nothing
        return read_token(own, "Ray's own token file") if own.is_file() else None


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Context(_Section):
    address: str
    tracking_uri: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    tracking_token_file: Path | None = None


class _File(_Section):
    current: str | None = None
    clusters: Mapping[Annotated[str, Field(pattern=_NAME)], _Context] = {}


@dataclass(frozen=True)
class ClusterConfig:
    """The named clusters, and which of them is meant where none is named."""

    current: str | None
    clusters: Mapping[str, Cluster]

    def named(self, name: str) -> Cluster:
        """The cluster of that name.

        Raises:
            ClusterConfigError: There is none.
        """
        if name not in self.clusters:
            known = ", ".join(sorted(self.clusters)) or "none yet"
            raise ClusterConfigError(
                f"no cluster is named '{name}' in {cluster_config_path()}",
                hint=did_you_mean(name, list(self.clusters))
                or f"known: {known}; 'sumgrad cluster add NAME http://HOST:8265' adds one",
            )
        return self.clusters[name]

    def with_cluster(self, cluster: Cluster) -> "ClusterConfig":
        """With one more, or another in its place."""
        assert cluster.name is not None  # noqa: S101 - whoever adds one has named it
        return replace(self, clusters={**self.clusters, cluster.name: cluster})

    def without(self, name: str) -> "ClusterConfig":
        """Without one.

        Raises:
            ClusterConfigError: There is none of that name.
        """
        self.named(name)
        left = {key: value for key, value in self.clusters.items() if key != name}
        return ClusterConfig(None if self.current == name else self.current, left)

    def using(self, name: str) -> "ClusterConfig":
        """With this one as the current one.

        Raises:
            ClusterConfigError: There is none of that name.
        """
        return replace(self, current=self.named(name).name)


def cluster_config_path() -> Path:
    """The file: ``SUMGRAD_CONFIG``, or ``sumgrad/clusters.yaml`` below the user's configuration.

    Raises:
        ClusterConfigError: The variable names the home folder of nobody.
    """
    if given := os.environ.get(CONFIG):
        return expand_home(Path(given), CONFIG)
    return user_directory("XDG_CONFIG_HOME", ".config") / "clusters.yaml"


def read_cluster_config() -> ClusterConfig:
    """What the file says; nothing, where there is none.

    Raises:
        ClusterConfigError: It cannot be read or is damaged.
        SpecError: It is no YAML.
    """
    path = cluster_config_path()
    try:
        text = read_small_file(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        return ClusterConfig(None, {})
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClusterConfigError(f"{path} cannot be read: {why}") from None
    tree = parse_yaml(text, str(path))
    try:
        file = _File.model_validate({} if tree.value is None else tree.value)
    except ValidationError as error:
        raise context_error(error, path, tree, _Context) from None
    clusters = {}
    for name, context in file.clusters.items():
        try:
            clusters[name] = _cluster(name, context)
        except ClusterConfigError as error:
            where = place(path, tree, ("clusters", name))
            raise ClusterConfigError(f"{where}: {error.message}", hint=error.hint or MEND) from None
    return ClusterConfig(file.current, clusters)


def _cluster(name: str, context: _Context) -> Cluster:
    """A context as it is used.

    Raises:
        ClusterConfigError: Its address is none, a path leads nowhere, or a token is nobody's.
    """
    files = ("token_file", "ca_file", "tracking_token_file")
    found = {
        key: path and expand_home(path, key) for key in files if (path := getattr(context, key))
    }
    return check_tracking_token(
        Cluster(normalize_address(context.address), name, context.tracking_uri, **found)
    )


def write_cluster_config(contexts: ClusterConfig) -> None:
    """Write the file, readable by its owner alone.

    Raises:
        ClusterConfigError: It cannot be written.
    """
    path = cluster_config_path()
    clusters = {}
    for name, cluster in contexts.clusters.items():
        facts = {key: str(value) for key, value in asdict(cluster).items() if value is not None}
        clusters[name] = {key: value for key, value in facts.items() if key != "name"}
    text = yaml.safe_dump({"current": contexts.current, "clusters": clusters})
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(path, text)
        path.chmod(0o600)
    except OSError as error:
        raise ClusterConfigError(
            f"{path}, where clusters have their names, cannot be written: {error.strerror}",
            hint=f"{CONFIG} names another file",
        ) from None


def select_cluster(given: str | None) -> Cluster:
    """The cluster that a command is about.

    Args:
        given: A context's name or an address; None for the environment's, or the current one.

    Raises:
        ClusterConfigError: None was chosen, or there is none of that name.
    """
    found = find_selected_cluster(given)
    if found is None:
        raise ClusterConfigError(
            "no cluster is chosen",
            hint="--cluster http://HOST:8265, or SUMGRAD_CLUSTER, or 'sumgrad cluster use NAME'; "
            "'sumgrad cluster up' starts one on this machine",
        )
    return found


def find_selected_cluster(given: str | None) -> Cluster | None:
    """The cluster that a command is about; None where none was chosen.

    Raises:
        ClusterConfigError: There is none of that name.
    """
    contexts = read_cluster_config()
    for variable in (None, *ADDRESS_VARIABLES):
        value = given if variable is None else os.environ.get(variable)
        if not value or (variable == "RAY_ADDRESS" and "://" not in value):
            # Ray's second variable often names a GCS address, which takes no jobs.
            continue
        if "://" in value or (":" in value and value not in contexts.clusters):
            return _with_environment(_at(normalize_address(value), contexts))
        return _with_environment(contexts.named(value))
    if contexts.current is None:
        return None
    return _with_environment(contexts.named(contexts.current))


def cluster_option(cluster: Cluster) -> str:
    """Return the option that makes a printed command mean this cluster; "" if it does already."""
    try:
        is_selected = find_selected_cluster(None) == cluster
    except (ClusterConfigError, SpecError):
        is_selected = False
    return "" if is_selected else f" --cluster {shlex.quote(cluster.option)}"


def _at(address: str, contexts: ClusterConfig) -> Cluster:
    """The cluster at an address: the only one that has a name, if there is one."""
    named = [cluster for cluster in contexts.clusters.values() if cluster.address == address]
    return named[0] if len(named) == 1 else Cluster(address)


def _with_environment(cluster: Cluster) -> Cluster:
    if cluster.tracking_uri is None and (uri := os.environ.get(TRACKING)):
        return replace(cluster, tracking_uri=uri)
    return cluster


def check_tracking_token(cluster: Cluster) -> Cluster:
    """A cluster whose tokens are each for somebody.

    Raises:
        ClusterConfigError: It has a token for an MLflow server that it does not name, or that
            has other credentials.
    """
    if cluster.tracking_token_file is None:
        return cluster
    if cluster.login is None or not cluster.login.is_for(cluster.login.uri):
        raise ClusterConfigError(
            "a tracking_token_file is for the MLflow server at tracking_uri, and there is none "
            "without a user of its own",
            hint="--tracking-uri, or tracking_uri in the file: http://HOST:5000",
        )
    return cluster


def check_cluster_name(name: str) -> str:
    """A name that a cluster may have.

    Raises:
        ClusterConfigError: It cannot be one.
    """
    if not re.fullmatch(_NAME, name):
        raise ClusterConfigError(
            f"'{name}' cannot be a cluster's name",
            hint="letters, digits, dots, dashes and underscores, at most 63",
        )
    return name


def normalize_address(address: str) -> str:
    """The address of Ray's dashboard, with a scheme and without a path's last slash.

    >>> normalize_address("head:8265")
    'http://head:8265'

    Raises:
        ClusterConfigError: It is none.
    """
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        is_address = bool(host) and host.isprintable() and " " not in host and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or parts.scheme not in ("http", "https"):
        hint = "the address of Ray's dashboard, such as http://127.0.0.1:8265"
        if address.startswith("ray://"):
            hint = f"jobs are sent to the dashboard and not to Ray Client: {hint}"
        raise ClusterConfigError(f"'{redact(text)}' is no cluster's address", hint=hint)
    if "@" in parts.netloc:
        raise ClusterConfigError(
            "a cluster's address has no user and no password",
            hint=f"its token goes into {TOKEN_PATH}, or a file that token_file names",
        )
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
