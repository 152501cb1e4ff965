"""The login that an MLflow server asks for: shown to the server that it is for, and to no other.

A server of ours has one user from the start, whose password is the cluster's token. Two things say
in which file the token of a server is: a context, for the server of its ``tracking_uri``; and
``SUMGRAD_TRACKING_TOKEN_FILE``, for the one that ``MLFLOW_TRACKING_URI`` names. For every other
server holds what MLflow itself finds, in its own variables and files.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from sumgrad.jobs.config.tokens import read_token
from sumgrad.jobs.config.tracking_uri import LOGIN_VARIABLES, URI, is_server
from sumgrad.jobs.errors import ClusterConfigError, LoginRefused, SpecError, TrackingError
from sumgrad.jobs.support.redaction import redact

#: The user of `sumgrad.jobs.service.local.mlflow_server`.
USER = "sumgrad"
TOKEN_FILE = "SUMGRAD_TRACKING_TOKEN_FILE"  # noqa: S105 - the name of a variable
_PORTS = {"http": 80, "https": 443}
_HINT = (
    f"{TOKEN_FILE} beside {URI}, or 'sumgrad cluster add NAME URL --tracking-uri URI "
    f"--tracking-token-file FILE'; {' and '.join(LOGIN_VARIABLES[0])} for any other user"
)
_RIGHTS = "an administrator of the server gives rights, on its page"


@dataclass(frozen=True)
class Credentials:
    """Where the password for a server is.

    Attributes:
        uri: The server that it is for.
        token_file: A file that holds it and nothing else.
        what: What names the file.
    """

    uri: str
    token_file: Path
    what: str

    def is_for(self, uri: str) -> bool:
        """Whether a server is that one; one that is called by another name is another."""
        mine = _server(self.uri)
        return mine is not None and mine == _server(uri)

    def password(self) -> str:
        """The token.

        Raises:
            TrackingError: The file cannot be read, holds none, or can be written by others.
        """
        try:
            return read_token(self.token_file, self.what)
        except ClusterConfigError as error:
            raise TrackingError(error.message, hint=error.hint) from None


def find_credentials(uri: str) -> Credentials | None:
    """The login for a server; None for one that no context and no variable names."""
    if not is_server(uri):
        return None
    return next((login for login in _known() if login.is_for(uri)), None)


def with_password(uri: str, login: Credentials | None) -> str:
    """The server's address for MLflow's client, with user and password.

    They are part of the address, and not of the environment, so that MLflow's client and whatever
    it is sent on to cannot take them anywhere else.

    Raises:
        TrackingError: The password cannot be read.
    """
    if login is None or not login.is_for(uri):
        return uri
    parts = urlsplit(uri)
    user = f"{USER}:{quote(login.password(), safe='')}"
    return urlunsplit((parts.scheme, f"{user}@{parts.netloc}", parts.path, "", ""))


def login_error(code: int, uri: str, login: Credentials | None) -> LoginRefused | None:
    """Return the error for a server's refusal; None where it does not concern a login.

    Args:
        code: HTTP's.
        uri: The server's.
        login: What was shown to it, if it was one of ours.
    """
    where = f"the MLflow server at {redact(uri)}"
    if code == 403:
        return LoginRefused(f"{where} answers 403: this user may not do that", hint=_RIGHTS)
    if code != 401:
        return None
    if login is not None:
        return LoginRefused(
            f"{where} does not take the token in {login.token_file} as the password of '{USER}'",
            hint="a server that was given another token takes it when it is started again",
        )
    if "@" in urlsplit(uri).netloc or any(
        all(map(os.environ.get, names)) for names in LOGIN_VARIABLES
    ):
        return LoginRefused(f"{where} does not take the login that it was shown", hint=_HINT)
    return LoginRefused(f"{where} asks for a login, and none is known here", hint=_HINT)


def _known() -> Iterator[Credentials]:
    """Yield known credentials: of clusters first, the current cluster before the others."""
    # Here, because it reads YAML, and who has no server need not wait for that.
    from sumgrad.jobs.config.clusters import read_cluster_config

    # A damaged file is told by the commands that it is for. Here it names no server.
    with suppress(ClusterConfigError, SpecError):
        contexts = read_cluster_config()
        named = sorted(contexts.clusters.values(), key=lambda each: each.name != contexts.current)
        yield from (login for each in named if (login := each.login) is not None)
    uri, file = os.environ.get(URI), os.environ.get(TOKEN_FILE)
    if uri and file:
        yield Credentials(uri, Path(file), TOKEN_FILE)


def _server(uri: str) -> tuple[str, str, int | None, str] | None:
    """What makes a server the same; None if it is none, or its address has a user of its own."""
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not is_server(uri) or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")
