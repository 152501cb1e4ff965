"""Secrets of addresses are removed, and the rest stays readable."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sumgrad.jobs.support.redaction import is_redacted, redact, redact_text
from sumgrad.jobs.support.text import describe_error
from tests.fuzzing import cases

REDACTED = {
    "https://me:secret@tracking:5000/path": "https://***@tracking:5000/path",
    "https://token@tracking": "https://***@tracking",
    "http://me:@tracking": "http://***@tracking",
    "postgresql://me:p@ss@db:1/x?y=z": "postgresql://***@db:1/x?y=z",
    "postgresql://me:p/ss@db:1/x": "postgresql://***@db:1/x",
    "postgresql://me:p?ss@db:1/x": "postgresql://***@db:1/x",
    "postgresql://me:p#ss@db:1/x": "postgresql://***@db:1/x",
    "postgresql://me:12/x@db": "postgresql://***@db",
    "postgresql://me:p:s s\n@db/x": "postgresql://***@db/x",
    "postgresql://me@corp.example:pw@db/x": "postgresql://***@db/x",
    "postgresql+psycopg2://me:pw@/x": "postgresql+psycopg2://***@/x",
    "mysql://me:pw@[::1]:3306/x": "mysql://***@[::1]:3306/x",
    "postgresql://db/x?user=me&password=pw&sslmode=require": (
        "postgresql://db/x?user=me&password=***&sslmode=require"
    ),
    "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dpw": "mssql+pyodbc:///?odbc_connect=***",
    "mssql+pyodbc:///?odbc_connect=UID=a@b;PWD=p@w": "mssql+pyodbc:///?odbc_connect=***",
    "mssql+pyodbc:///?driver=X;PWD=pw": "mssql+pyodbc:///?driver=X;PWD=***",
    "mysql://db/x?passwd=pw": "mysql://db/x?passwd=***",
    "mysql://db/x?PWD=pw": "mysql://db/x?PWD=***",
    "mysql://db/x?p%61ssword=pw": "mysql://db/x?p%61ssword=***",
    "http://tracking?token=pw&a=b": "http://tracking?token=***&a=b",
    "http://tracking?client_secret=pw": "http://tracking?client_secret=***",
    "s3://key:se/cr+et@bucket/x.csv": "s3://***@bucket/x.csv",
    "sqlite+pysqlcipher://:pw@/x.db": "sqlite+pysqlcipher://***@/x.db",
}
KEPT = [
    "http://tracking:5000",
    "http://tracking/path@v1",
    "http://tracking:5000/a?b=c",
    "postgresql://db/x?passfile=/home/me/.pgpass",
    "sqlite:////home/me@corp/x.db",
    "sqlite:////home/a:b@c/x.db?timeout=3",
    "sqlite:////a b/x.db",
    "file:///home/me@corp/mlruns",
    "mlruns",
    "http://[",
    "",
]


@pytest.mark.parametrize(("uri", "shown"), REDACTED.items())
def test_secrets_are_masked(uri: str, shown: str) -> None:
    assert redact(uri) == shown
    assert is_redacted(shown)
    assert redact(shown) == shown, "what is redacted already stays"
    assert redact_text(shown) == shown


@pytest.mark.parametrize("uri", KEPT)
def test_addresses_without_secrets_are_unchanged(uri: str) -> None:
    assert redact(uri) == uri
    assert redact_text(f"the store at {uri} is 'me'@'localhost'") == (
        f"the store at {uri} is 'me'@'localhost'"
    )
    assert not is_redacted(uri)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("POST http://me:p@ss@host/x failed", "POST http://***@host/x failed"),
        ("is 'http://me:p s@h/x' there?", "is 'http://***@h/x' there?"),
        ('a="http://me:p@h", b="http://you:q@i".', 'a="http://***@h", b="http://***@i".'),
        ("http://me:p@h\nhttp://h:1 x\nme@x", "http://***@h\nhttp://h:1 x\nme@x"),
        ("url: /x?token=abc (Caused by)", "url: /x?token=***"),
        ("'http://h?token=***' is none", "'http://h?token=***' is none"),
        ("at http://***@h: POST http://***@h/x: no", "at http://***@h: POST http://***@h/x: no"),
        ("mysql://db:3306/x: no 'me'@'host'", "mysql://db:3306/x: no 'me'@'host'"),
        ("uri: postgresql://me:a/b?c#d@h/x\n", "uri: postgresql://***@h/x\n"),
        ("write to me@corp.example", "write to me@corp.example"),
    ],
)
def test_secrets_in_a_text_are_masked(text: str, shown: str) -> None:
    assert redact_text(text) == shown
    assert redact_text(shown) == shown


SECRET = "S3cr3t"
#: A password with the same words at both ends, and anything between them.
PASSWORDS = st.text(max_size=12).map(lambda middle: f"{SECRET}{middle}{SECRET}")
#: Without line ends, of which a text has its own.
PRINTABLE = PASSWORDS.filter(lambda password: len(password.splitlines()) == 1)
HOSTS = st.sampled_from(["h", "h:5000/x", "/x", "[::1]:1/x?y=z", "h/a@b"])
CONTEXTS = st.sampled_from(
    ["{}", "POST {} failed: no", "the store at '{}' is away (no)", "uri={}, http://h:1/x", "x:{}\n"]
)


@cases(1000)
@given(password=PASSWORDS, host=HOSTS)
@example(password=f"{SECRET}?password={SECRET}", host="h")
@example(password=f"{SECRET}://{SECRET}", host="h")
def test_no_password_survives_in_an_address(password: str, host: str) -> None:
    shown = redact(f"postgresql://me:{password}@{host}")
    assert SECRET not in shown
    assert redact(shown) == shown


@cases(1000)
@given(password=PRINTABLE, host=HOSTS, context=CONTEXTS)
def test_no_password_survives_in_a_text(password: str, host: str, context: str) -> None:
    text = context.format(f"postgresql://me:{password}@{host}")
    assert SECRET not in redact_text(text)
    assert SECRET not in describe_error(OSError(text))


@cases(500)
@given(
    password=PRINTABLE.filter(lambda password: "&" not in password),
    context=CONTEXTS,
    key=st.sampled_from(["password", "pwd", "passwd", "token", "secret", "odbc_connect"]),
)
def test_no_password_survives_in_a_query(password: str, context: str, key: str) -> None:
    uri = f"postgresql://h/x?a=b&{key}={password}&c=d"
    assert redact(uri) == f"postgresql://h/x?a=b&{key}=***&c=d"
    assert SECRET not in redact_text(context.format(uri))


PIECES = st.sampled_from([*"ab:/@?&=;#'\n *", "://", "password="])


@cases(500)
@given(text=st.lists(PIECES, max_size=40).map("".join))
def test_any_text_is_accepted(text: str) -> None:
    assert redact_text(text).count("\n") == text.count("\n")
    assert redact(text) == text or is_redacted(redact(text))
