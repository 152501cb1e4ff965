"""Remove secrets from addresses, and from text that contains addresses.

An address can have a user and a password before its host, and passwords or tokens in its query.
Some databases accept passwords with any character but an unescaped ``@``, so a ``/``, a ``?`` or a
``#`` does not end a secret: what may belong to a secret is removed.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote

MASK = "***"  #: Replaces a secret.

#: Names of secrets in a query. An ODBC connection text can contain a password.
_SECRET_NAME = re.compile(
    r"pass(?!file)|pwd|token|secret|credential|signature|api[-_]?key|access[-_]?key|odbc_connect"
    r"|^sig$",
    re.IGNORECASE,
)

_FILE = "sqlite:///"  #: The prefix of database files, which need no login.

#: User and password of an address, up to its last '@'.
_USER = re.compile(rf"(?<=://)(?!{re.escape(MASK)}@)[^:/]*(?::.*)?(?=@)", re.DOTALL)
#: Name and value in a query. Values overlap where a value is itself a list, as in ODBC.
_PAIR = re.compile(r"[?&;]\s*([^=&?;\s]+)=(?=([^&]*))")

#: Matches where no other address of the text starts.
_NEXT = r"(?![\s'\"(<\[=,;][A-Za-z][\w+.-]*://)"
#: `_USER` within a line of text. MySQL writes 'user'@'host', which does not end an address.
_USER_IN_TEXT = re.compile(
    rf"(?<=://)(?!{re.escape(MASK)}@)[^:/\s]*(?::(?:{_NEXT}.)*)?(?=@)(?!(?<=')@')"
)
_PAIR_IN_TEXT = re.compile(
    rf"[?&;][ \t]*([^=&?;\s]+)=(?!{re.escape(MASK)}(?:[&\s'\"),;:]|$))(?=((?:{_NEXT}[^&\n])*))",
    re.MULTILINE,
)


def redact(uri: str) -> str:
    """Return an address without user and password, and without secrets in its query.

    >>> redact("https://me:secret@tracking.example:5000/path")
    'https://***@tracking.example:5000/path'
    >>> redact("postgresql://db/mlflow?user=me&password=secret&sslmode=require")
    'postgresql://db/mlflow?user=me&password=***&sslmode=require'
    """
    if uri.startswith(_FILE):
        return uri
    user = _USER.search(uri)
    return _masked(uri, [*([user.span()] if user else []), *_values(_PAIR, uri)])


def redact_text(text: str) -> str:
    """Return text, of one or several lines, without the secrets of the addresses in it.

    A password may contain blanks, so the end of an address in a text is unknown: what follows an
    address on its line may be removed with the secret, but the secret never remains.

    >>> redact_text("GET http://me:secret@tracking/x failed")
    'GET http://***@tracking/x failed'
    """
    users = [match.span() for match in _USER_IN_TEXT.finditer(text)]
    return _masked(text, [*users, *_values(_PAIR_IN_TEXT, text)])


def is_redacted(uri: str) -> bool:
    """Return whether `redact` has removed something from an address."""
    return not uri.startswith(_FILE) and (f"://{MASK}" in uri or f"={MASK}" in uri)


def without_user(uri: str) -> str:
    """Return a redacted address without the mask of its user."""
    return uri.replace(f"://{MASK}@", "://", 1)


def _values(pattern: "re.Pattern[str]", text: str) -> Iterator[tuple[int, int]]:
    """Yield the positions of the secret values of a query."""
    for pair in pattern.finditer(text):
        if _SECRET_NAME.search(unquote(pair[1])):
            yield pair.span(2)


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    """Return the text with every span replaced by a mask; overlapping spans share one."""
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if start > end or not pieces:
            pieces += [text[end:start], MASK]
        end = max(end, stop)
    return "".join(pieces) + text[end:]
