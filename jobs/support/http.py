"""HTTP requests with a deadline for the whole exchange, a size limit and errors of one line."""

from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from sumgrad.jobs.support.redaction import redact_text
from sumgrad.jobs.support.threads import run_in_thread

if TYPE_CHECKING:
    import requests

_MAX_BYTES = 1 << 28
_CHUNK_BYTES = 1 << 16


class RequestFailed(Exception):
    """A request without a usable answer; the message is the reason, in one line."""


class Response(NamedTuple):
    """The answer to a request, also with a status of 400 and more."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode(errors="replace")


def send_request(
    method: str,
    url: str,
    *,
    timeout: float,
    token: str | None = None,
    login: tuple[str, str] | None = None,
    ca_file: Path | None = None,
) -> Response:
    """Send a request without a body and return the answer.

    Args:
        method: ``GET``, ``POST`` or ``DELETE``.
        url: An http or https address; a user and a password in it are not sent.
        timeout: Seconds for the whole exchange.
        token: Bearer token for the host of ``url``; hosts that it redirects to do not get it.
        login: User and password, which are sent as the token is.
        ca_file: Certificates to trust; None for the default ones.

    Raises:
        RequestFailed: The server is unreachable, or answers too late, too much, or not in HTTP.
    """

    def authorize(request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        # An authorization of our own keeps requests from sending the passwords of ~/.netrc.
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        elif login is not None:
            from requests.auth import HTTPBasicAuth

            user, password = (text.encode() for text in login)
            HTTPBasicAuth(user, password)(request)
        return request

    def exchange() -> Response:
        import requests  # takes a fifth of a second

        body = bytearray()
        try:
            with requests.request(
                method,
                _without_user(url),
                auth=authorize,
                timeout=timeout,
                verify=True if ca_file is None else str(ca_file),
                stream=True,
            ) as response:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    body += chunk
                    if len(body) > _MAX_BYTES:
                        raise RequestFailed(f"the answer has more than {_MAX_BYTES:,} bytes")
        except (OSError, ValueError) as error:
            raise RequestFailed(_reason(error, timeout)) from None
        return Response(response.status_code, bytes(body))

    try:
        # A server that sends a byte now and then meets every timeout of a socket.
        return run_in_thread("http", exchange).result(timeout)
    except TimeoutError:
        raise RequestFailed(f"no answer in {timeout:g} s") from None


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _reason(error: BaseException, timeout: float) -> str:
    """Return the first cause of an error of requests in one line."""
    is_connected = type(error).__name__ in ("ConnectionError", "ChunkedEncodingError")
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, TimeoutError):
        return f"no answer in {timeout:g} s"
    if isinstance(error, IncompleteRead):
        return "the answer breaks off"
    if not isinstance(error, OSError) and (is_connected or isinstance(error, HTTPException)):
        return "it does not speak HTTP"
    text = getattr(error, "strerror", None) or str(error)
    return redact_text(" ".join(text.split()))
