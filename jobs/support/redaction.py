"""Addresses, and texts with addresses in them, without the secrets that people put into those.

An address may have a user and a password before its host, and passwords or tokens in its query.
Some databases take passwords with any character but an unescaped ``@``. So nothing is concluded
from a ``/``, a ``?`` or a ``#``: where it cannot be known whether something belongs to a secret,
it is taken for one.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote

#: What stands where a secret was.
MASK = "***"

#: Parts of the names of what is secret in a query. A whole ODBC connection text has a password.
_SECRET_NAME = re.compile(
    r"pass(?!file)|pwd|token|secret|credential|signature|api[-_]?key|access[-_]?key|odbc_connect"
    r"|^sig$",
    re.IGNORECASE,
)

#: A file has nobody to log in, whatever its path looks like.
_FILE = "sqlite:///"

#: User and password of an address, up to its last '@'.
_USER = re.compile(rf"(?<=://)(?!{re.escape(MASK)}@)[^:/]*(?::.*)?(?=@)", re.DOTALL)
#: Name and value of a query. Values overlap where one is a list of its own, as in ODBC.
_PAIR = re.compile(r"[?&;]\s*([^=&?;\s]+)=(?=([^&]*))")

#: Where the next address of a text begins.
_NEXT = r"(?![\s'\"(<\[=,;][A-Za-z][\w+.-]*://)"
#: As above within a line of a text. MySQL writes 'user'@'host', which is no end of an address.
_USER_IN_TEXT = re.compile(
    rf"(?<=://)(?!{re.escape(MASK)}@)[^:/\s]*(?::(?:{_NEXT}.)*)?(?=@)(?!(?<=')@')"
)
_PAIR_IN_TEXT = re.compile(
    rf"[?&;][ \t]*([^=&?;\s]+)=(?!{re.escape(MASK)}(?:[&\s'\"),;:]|$))(?=((?:{_NEXT}[^&\n])*))",
    re.MULTILINE,
)


def redact(uri: str) -> str:
    """An address without user and password, and without secrets in its query.

    >>> redact("https://me:secret@tracking.example:5000/path")
    'https://***@tracking.example:5000/path'
    >>> redact("postgresql://db/mlflow?user=me&password=secret&sslmode=require")
    'postgresql://db/mlflow?user=me&password=***&sslmode=require'

    Args:
        uri: The address, and nothing else.
    """
    if uri.startswith(_FILE):
        return uri
    user = _USER.search(uri)
    return _masked(uri, [*([user.span()] if user else []), *_values(_PAIR, uri)])


def redact_text(text: str) -> str:
    """A text without the secrets of the addresses in it; it may have several lines.

    Where an address ends in a text cannot be known if its password has blanks. What follows an
    address on its line may therefore go with the secret, but the secret never stays.

    >>> redact_text("GET http://me:secret@tracking/x failed")
    'GET http://***@tracking/x failed'

    Args:
        text: Anything, such as what another library has to say.
    """
    users = [match.span() for match in _USER_IN_TEXT.finditer(text)]
    return _masked(text, [*users, *_values(_PAIR_IN_TEXT, text)])


def is_redacted(uri: str) -> bool:
    """Whether `redact` has taken something from an address."""
    return not uri.startswith(_FILE) and (f"://{MASK}" in uri or f"={MASK}" in uri)


def without_user(uri: str) -> str:
    """A redacted address without what stands for its user."""
    return uri.replace(f"://{MASK}@", "://", 1)


def _values(pattern: "re.Pattern[str]", text: str) -> Iterator[tuple[int, int]]:
    """Where the secret values of a query are."""
    for pair in pattern.finditer(text):
        if _SECRET_NAME.search(unquote(pair[1])):
            yield pair.span(2)


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with a mask in the place of every span; of those that overlap, a single one."""
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if start > end or not pieces:
            pieces += [text[end:start], MASK]
        end = max(end, stop)
    return "".join(pieces) + text[end:]
