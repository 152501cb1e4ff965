"""The login for an MLflow server, sent to that server alone.

The servers of ``sumgrad cluster up`` and of docker-compose.yml have one user, whose password is the
cluster's token. The file of a server's token is named by the cluster configuration, for the server
of its ``tracking_uri``, or by ``SUMGRAD_TRACKING_TOKEN_FILE``, for the server of
``MLFLOW_TRACKING_URI``. For all other servers MLflow's own variables and files apply.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from sumgrad.jobs.config.tokens import read_token
from sumgrad.jobs.config.tracking_uri import URI, USER_AND_PASSWORD, has_login_variables, is_server
from sumgrad.jobs.errors import ClusterConfigError, LoginRefused, TrackingError
from sumgrad.jobs.support.redaction import redact

USER = "sumgrad"  #: The user of `sumgrad.jobs.service.local.mlflow_server`.
TOKEN_FILE = "SUMGRAD_TRACKING_TOKEN_FILE"  # noqa: S105 - the name of a variable
_PORTS = {"http": 80, "https": 443}
_HINT = (
    f"set {TOKEN_FILE} beside {URI}, or use 'sumgrad cluster add NAME URL --tracking-uri URI "
    f"--tracking-token-file FILE'; for another user set {' and '.join(USER_AND_PASSWORD)}"
)


@dataclass(frozen=True)
class Credentials:
    """The password file for a server, and the option, key or variable that names the file."""

    uri: str
    token_file: Path
    what: str

    def is_for(self, uri: str) -> bool:
        """Return whether a URI is this server's; another name of the same host does not count."""
        own = _server(self.uri)
        return own is not None and own == _server(uri)

    def password(self) -> str:
        """Return the token, or raise `TrackingError` if its file cannot be used."""
        try:
            return read_token(self.token_file, self.what)
        except ClusterConfigError as error:
            raise TrackingError(error.message, hint=error.hint) from None


def with_password(uri: str, credentials: Credentials | None) -> str:
    """Return a server's address with user and password for MLflow, or raise `TrackingError`.

    Unlike those of the environment, they cannot reach a server that this one redirects to.
    """
    if credentials is None or not credentials.is_for(uri):
        return uri
    parts = urlsplit(uri)
    user = f"{USER}:{quote(credentials.password(), safe='')}"
    return urlunsplit((parts.scheme, f"{user}@{parts.netloc}", parts.path, "", ""))


def login_error(code: int, uri: str, credentials: Credentials | None) -> LoginRefused | None:
    """Return the error for a server's HTTP status, or None if it is not about the login.

    The credentials are those that were sent to it, or None for MLflow's own login.
    """
    server = f"the MLflow server at {redact(uri)}"
    if code == 403:
        hint = "ask the server's administrator for the permission"
        return LoginRefused(f"{server} answers 403: this user may not do that", hint=hint)
    if code != 401:
        return None
    if credentials is not None:
        return LoginRefused(
            f"{server} rejects the token in {credentials.token_file} as the password of '{USER}'",
            hint="if the server's token was replaced, restart the server",
        )
    if "@" in urlsplit(uri).netloc or has_login_variables():
        return LoginRefused(f"{server} rejects the user and password", hint=_HINT)
    return LoginRefused(f"{server} requires a login, and none is configured", hint=_HINT)


def _server(uri: str) -> tuple[str, str, int | None, str] | None:
    """Return scheme, host, port and path; None if the URI is not a server's or names a user."""
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not is_server(uri) or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")
