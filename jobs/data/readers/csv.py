"""A CSV file as Arrow reads it: block by block, and no further than memory has room."""

import gzip
import io
from pathlib import Path

from sumgrad.jobs.support.memory import available_bytes, check_memory_for_rows

#: What a value takes as a number, however short it is written.
_VALUE_BYTES = 8


class CsvSource(io.RawIOBase):
    """The text of a CSV file, plain or gzip, that ends with an error where memory would.

    Args:
        path: The file; compressed if its name ends in .gz.
        delimiter: Between two values. They are counted by it: an empty one takes one byte in the
            file, and eight in memory.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        # GzipFile takes what it is given for a file, and both are closed with this object.
        self._raw = path.open("rb")
        packed = path.suffix.lower() == ".gz"
        self._file = gzip.GzipFile(fileobj=self._raw) if packed else self._raw
        self._name, self._delimiter = str(path), delimiter.encode()
        self._free, self._held = available_bytes(), 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes.

        Raises:
            DataError: What has been read so far fills memory.
            OSError, EOFError, zlib.error: The file is damaged.
        """
        block = self._file.read(-1 if size is None else size)
        ends = max(block.count(b"\n"), block.count(b"\r"))
        values = block.count(self._delimiter) + ends
        self._held += max(len(block), _VALUE_BYTES * values)
        check_memory_for_rows(self._held, self._name, free=self._free)
        return block

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()
        super().close()
