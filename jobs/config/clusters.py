"""Named clusters, in the user's configuration file ``~/.config/sumgrad/clusters.yaml``.

current: lab
clusters:
  lab:
    address: http://127.0.0.1:8265       # Ray's dashboard, which accepts jobs
    tracking_uri: http://127.0.0.1:5000  # MLflow, as this machine reaches it
    token_file: /home/ada/lab.token
    tracking_token_file: /home/ada/lab.token  # of that MLflow alone
"""

import os
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sumgrad.jobs.config.credentials import TOKEN_FILE, Credentials
from sumgrad.jobs.config.directories import user_directory
from sumgrad.jobs.config.tokens import check_token, expand_home, read_token
from sumgrad.jobs.config.tracking_uri import URI, is_server
from sumgrad.jobs.errors import ClusterConfigError, SpecError
from sumgrad.jobs.support.files import expand_user, write_text
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.validation import first_problem, problem_error
from sumgrad.jobs.support.yaml import MAX_BYTES, parse_yaml
from sumgrad.model.validation import did_you_mean

T = TypeVar("T")

#: Variables that select a cluster, by name or address, the first one first; RAY_ADDRESS is last.
ADDRESS_VARIABLES = ("SUMGRAD_CLUSTER", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
#: Ray's variables for its token, in Ray's order.
TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
CONFIG = "SUMGRAD_CONFIG"
LOCAL_NAME = "local"  #: The name of the cluster that ``sumgrad cluster up`` starts.


def normalize_address(address: str) -> str:
    """Return a dashboard's address with a scheme and no final slash, or raise `ClusterConfigError`.

    >>> normalize_address("head:8265")
    'http://head:8265'
    """
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        is_valid = bool(host) and host.isprintable() and " " not in host and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.scheme not in ("http", "https"):
        hint = "give the address of Ray's dashboard, such as http://127.0.0.1:8265"
        if address.startswith("ray://"):
            hint = f"jobs are sent to the dashboard, not to Ray Client: {hint}"
        raise ClusterConfigError(f"'{redact(text)}' is not a cluster's address", hint=hint)
    if "@" in parts.netloc:
        hint = f"put its token into a file that token_file or {TOKEN_PATH} names"
        raise ClusterConfigError("a cluster's address has no user and no password", hint=hint)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _checked(check: Callable[[T], T]) -> AfterValidator:
    """Return a validator that reports a check's error as a problem of its key."""

    def validate(value: T) -> T:
        try:
            return check(value)
        except ClusterConfigError as error:
            raise problem_error(error.message, error.hint) from None

    return AfterValidator(validate)


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        hint = "use at most 63 letters, digits, dots, dashes and underscores"
        raise problem_error(f"'{name}' is not a valid cluster name", hint)
    return name


_UserPath = Annotated[Path, _checked(lambda path: expand_home(path, "in the cluster file"))]


class Cluster(BaseModel):
    """A cluster, as this machine reaches it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The address of Ray's dashboard: ``http://host:8265``.
    address: Annotated[str, _checked(normalize_address)]
    tracking_uri: str | None = None  #: Its MLflow; None if only the cluster knows it.
    token_file: _UserPath | None = None  #: A file that holds its token and nothing else.
    ca_file: _UserPath | None = None  #: Certificates to trust, for an https address.
    #: A file that holds the token of its MLflow and nothing else.
    tracking_token_file: _UserPath | None = None
    #: Its key in the configuration; None if it was given by its address.
    name: Annotated[str | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _check_tracking_token(self) -> Self:
        login = self.login
        if self.tracking_token_file and (login is None or not login.is_for(login.uri)):
            raise problem_error(
                "tracking_token_file needs a tracking_uri of a server, without a user in it",
                "add --tracking-uri, or tracking_uri in the file: http://HOST:5000",
            )
        return self

    @property
    def label(self) -> str:
        """Its name for messages."""
        return f"{self.name} ({self.address})" if self.name else self.address

    @property
    def login(self) -> Credentials | None:
        """The credentials for its MLflow, if configured."""
        if self.tracking_uri is None or self.tracking_token_file is None:
            return None
        what = f"tracking_token_file of cluster '{self.name}'"
        return Credentials(self.tracking_uri, self.tracking_token_file, what)

    def token(self) -> str | None:
        """Return the cluster's token, or None if none is configured.

        The cluster's own file comes first; then ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``, and
        Ray's file in the home folder. Errors are those of `read_token`.
        """
        if self.token_file is not None:
            return read_token(self.token_file, f"token_file of cluster '{self.name}'")
        if given := os.environ.get(TOKEN, "").strip():
            return check_token(given, TOKEN)
        if path := os.environ.get(TOKEN_PATH):
            return read_token(Path(path), TOKEN_PATH)
        own = expand_user("~/.ray/auth_token")
        return read_token(own, "Ray's own token file") if own.is_file() else None

    def command(self, words: str) -> str:
        """Return a command of sumgrad with the option that selects this cluster, if it needs one.

        >>> Cluster(address="http://head:8265").command("status digits-1")
        'sumgrad status digits-1 --cluster http://head:8265'
        """
        try:
            is_selected = find_selected_cluster(None) == self
        except (ClusterConfigError, SpecError):
            is_selected = False
        option = "" if is_selected else f" --cluster {shlex.quote(self.name or self.address)}"
        return f"sumgrad {words}{option}"


class ClusterConfig(BaseModel):
    """The named clusters, and the name of the default one.

    Methods raise `ClusterConfigError` for the name of no cluster and for an invalid option.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    current: str | None = None
    clusters: dict[Annotated[str, AfterValidator(_check_name)], Cluster] = {}

    @model_validator(mode="after")
    def _name_clusters(self) -> Self:
        for name, cluster in self.clusters.items():
            if cluster.name not in (None, name):
                raise problem_error(f"the cluster's name is '{name}'", key=f"clusters.{name}.name")
            self.clusters[name] = cluster.model_copy(update={"name": name})
        return self

    def named(self, name: str) -> Cluster:
        """Return the cluster of that name."""
        if name not in self.clusters:
            add = "'sumgrad cluster add NAME http://HOST:8265' adds one"
            raise ClusterConfigError(
                f"no cluster is named '{name}' in {cluster_config_path()}",
                hint=did_you_mean(name, self.clusters) if self.clusters else add,
            )
        return self.clusters[name]

    def at_address(self, address: str) -> Cluster:
        """Return the cluster at an address: the named one if exactly one has that address."""
        named = [cluster for cluster in self.clusters.values() if cluster.address == address]
        return named[0] if len(named) == 1 else Cluster(address=address)

    def with_cluster(self, name: str, options: Mapping[str, object]) -> "ClusterConfig":
        """Return a configuration with one more cluster, which replaces the one of its name."""
        document = {"clusters": {name: dict(options)}}
        try:
            new = ClusterConfig.model_validate(document)
        except ValidationError as error:
            problem = first_problem(error, ClusterConfig, document)
            raise ClusterConfigError(problem.message, hint=problem.hint) from None
        return self.model_copy(update={"clusters": self.clusters | new.clusters})

    def without(self, name: str) -> "ClusterConfig":
        """Return a configuration without a cluster."""
        self.named(name)
        remaining = {key: value for key, value in self.clusters.items() if key != name}
        current = None if self.current == name else self.current
        return ClusterConfig(current=current, clusters=remaining)

    def using(self, name: str | None) -> "ClusterConfig":
        """Return a configuration with another default, or with none."""
        return self.model_copy(update={"current": name and self.named(name).name})


def cluster_config_path() -> Path:
    """Return ``SUMGRAD_CONFIG``, or ``sumgrad/clusters.yaml`` below the user's configuration.

    Raise `ClusterConfigError` if the variable names a home folder that does not exist.
    """
    if given := os.environ.get(CONFIG):
        return expand_home(Path(given), CONFIG)
    return user_directory("XDG_CONFIG_HOME", ".config") / "clusters.yaml"


def read_cluster_config() -> ClusterConfig:
    """Read the file, if any, or raise `ClusterConfigError`, or `SpecError` if it is not YAML."""
    path = cluster_config_path()
    try:
        text = read_small_file(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        return ClusterConfig()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClusterConfigError(f"{path} cannot be read: {why}") from None
    tree = parse_yaml(text, str(path))
    try:
        return ClusterConfig.model_validate({} if tree.value is None else tree.value)
    except ValidationError as error:
        problem = first_problem(error, ClusterConfig, tree.value)
        line = tree.line_of(problem.path)
        raise ClusterConfigError(
            f"{path}{f', line {line}' if line else ''}: {problem}",
            hint=problem.hint or "correct it, or remove the file and use 'sumgrad cluster add'",
        ) from None


def write_cluster_config(config: ClusterConfig) -> None:
    """Write the file, readable by its owner alone, or raise `ClusterConfigError`."""
    path = cluster_config_path()
    text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(path, text)
        path.chmod(0o600)
    except OSError as error:
        problem = f"{path}, the file of named clusters, cannot be written: {error.strerror}"
        raise ClusterConfigError(problem, hint=f"set {CONFIG} to another file") from None


def select_cluster(given: str | None) -> Cluster:
    """Return what `find_selected_cluster` does; raise `ClusterConfigError` if none is selected."""
    if (found := find_selected_cluster(given)) is None:
        raise ClusterConfigError(
            "no cluster is selected",
            hint="use --cluster http://HOST:8265, SUMGRAD_CLUSTER or 'sumgrad cluster use NAME'; "
            "'sumgrad cluster up' starts one on this machine",
        )
    return found


def find_selected_cluster(given: str | None) -> Cluster | None:
    """Return the cluster of a command, or None if none is selected.

    It is the one with the given name or address, the environment's, or the default one. Raise
    `ClusterConfigError` if no cluster has that name.
    """
    config = read_cluster_config()
    values = [given, *map(os.environ.get, ADDRESS_VARIABLES)]
    # RAY_ADDRESS often holds a GCS address, which takes no jobs.
    if "://" not in (values[-1] or ""):
        values.pop()
    if not (value := next(filter(None, [*values, config.current]), None)):
        return None
    if "://" in value or (":" in value and value not in config.clusters):
        cluster = config.at_address(normalize_address(value))
    else:
        cluster = config.named(value)
    if cluster.tracking_uri is None and (uri := os.environ.get(URI)):
        return cluster.model_copy(update={"tracking_uri": uri})
    return cluster


def find_credentials(uri: str) -> Credentials | None:
    """Return the credentials for an MLflow server, or None if none are configured.

    The current cluster's come first, then those of the other clusters and of the environment.
    """
    if not is_server(uri):
        return None
    found: list[Credentials] = []
    # A damaged configuration is reported by the commands about clusters.
    with suppress(ClusterConfigError, SpecError):
        config = read_cluster_config()
        clusters = sorted(config.clusters.values(), key=lambda each: each.name != config.current)
        found = [each.login for each in clusters if each.login is not None]
    if (server := os.environ.get(URI)) and (file := os.environ.get(TOKEN_FILE)):
        found.append(Credentials(server, Path(file), TOKEN_FILE))
    return next((each for each in found if each.is_for(uri)), None)
