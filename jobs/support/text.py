"""Text for one line of a terminal, a log or a tag."""

from collections.abc import Sequence

from sumgrad.jobs.support.redaction import redact_text


def one_line(text: object, max_length: int | None = None) -> str:
    r"""Return a string on one line, without control characters; a longer one is cut.

    >>> one_line("RuntimeError: it\n\x1b[2J  broke"), one_line("too long", max_length=3)
    ('RuntimeError: it [2J broke', 'too …')
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if max_length is None or len(line) <= max_length else f"{line[:max_length]} …"


def describe_error(error: BaseException) -> str:
    r"""Return the cause of an error on one line, without the secrets of addresses.

    >>> describe_error(OSError(28, "No space left on device", "/data/x"))
    '/data/x: No space left on device'
    >>> describe_error(ValueError("too long\nfor a line"))
    'too long'
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    first_line = redact_text(str(error).strip()).partition("\n")[0]
    return one_line(first_line) or type(error).__name__


def plural(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "row"), plural(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines with aligned columns.

    >>> align_columns([("run", "status"), ("digits-ab12cd", "KILLED")])
    ['run            status', 'digits-ab12cd  KILLED']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    >>> [duration(s) for s in (0.4, 59.6, 5263, 200_000)]
    ['0 s', '1 min 0 s', '1 h 27 min', '2 d 7 h']
    """
    left = round(seconds)
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s"
    if left < 86_400:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86_400} d {left % 86_400 // 3600} h"
