"""Structures of Apache Thrift's compact protocol, in which a Parquet file's metadata is written.

PyArrow ends the process where it is asked for a column's metadata that is damaged: its own
exception for that is thrown where none is expected.
"""

import struct
from typing import Any

from sumgrad.jobs.errors import DataError

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_MAX_DEPTH = 40
_TAIL = struct.Struct("<I4s")


def footer_of(file: str) -> dict[int, Any]:
    """The metadata at the end of a Parquet file: values by the numbers of their fields.

    Raises:
        DataError: It is damaged.
    """
    with open(file, "rb") as source:  # noqa: PTH123 - a name, as messages have it
        size = source.seek(0, 2)
        source.seek(max(0, size - _TAIL.size))
        length, magic = _TAIL.unpack(source.read(_TAIL.size))
        if magic != b"PAR1" or length > size - _TAIL.size:
            raise DataError("cannot be read: its metadata is damaged", file=file)
        source.seek(size - _TAIL.size - length)
        data = source.read(length)
    try:
        return _Reader(data).structure(0)
    except (IndexError, ValueError, struct.error):
        raise DataError("cannot be read: its metadata is damaged", file=file) from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def structure(self, depth: int) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        values: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            values[number] = kind == _TRUE if kind <= _FALSE else self._value(kind, depth)
        return values

    def _value(self, kind: int, depth: int) -> Any:
        if _BYTE < kind < _DOUBLE:
            return self._signed()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._skip(8)
        if kind == _BINARY:
            return self._skip(self._unsigned())
        if kind == _STRUCT:
            return self.structure(depth + 1)
        return self._many(kind, depth)

    def _many(self, kind: int, depth: int) -> list[Any]:
        if depth > _MAX_DEPTH or kind not in (_LIST, _SET, _MAP):
            raise ValueError("no such type, or nested too deeply")
        if kind == _MAP:
            count = self._unsigned()
            kinds: tuple[int, ...] = divmod(self._byte(), 16) if count else ()
        else:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            kinds = (head & 15,)
        # Each has at least a byte, so that a size that is none ends where the data do.
        return [self._value(one, depth + 1) for _ in range(count) for one in kinds]

    def _skip(self, size: int) -> None:
        if self._at + size > len(self._data):
            raise ValueError("ends too early")
        self._at += size

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("no such number")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
