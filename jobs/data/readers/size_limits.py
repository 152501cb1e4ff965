"""What the own metadata of Parquet and Arrow files promise, asked before anything is unpacked.

A few bytes can stand for billions of values: compressed, encoded as runs, or by a dictionary.
"""

import struct
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import ipc, parquet

from sumgrad.jobs.data.readers.thrift import footer_of
from sumgrad.jobs.errors import DataError

#: Bytes of a value in memory by the type that a Parquet file stores it as; texts are looked up in
#: a dictionary by four bytes, and numbers of any length become 16 at most, or 32.
_PARQUET_BYTES = {
    "BOOLEAN": 1,
    "INT32": 4,
    "FLOAT": 4,
    "INT64": 8,
    "DOUBLE": 8,
    "INT96": 8,
    "BYTE_ARRAY": 4,
    "FIXED_LEN_BYTE_ARRAY": 32,
}
#: Of each value in a list while it is read: how deep it stands, and where its list begins.
_LEVEL_BYTES = 4

#: Where the fields of an IPC message's tables stand; see format/Message.fbs of Apache Arrow.
_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_DATA_OF_DICTIONARY = 1
_BUFFERS, _COMPRESSION = 2, 3


#: Fields of a Parquet file's metadata; see parquet.thrift of Apache Parquet.
_ROW_GROUPS, _COLUMNS_OF_GROUP, _COLUMN_METADATA, _NUM_VALUES = 4, 1, 3, 5


def parquet_bytes(metadata: parquet.FileMetaData, file: str) -> Iterator[int]:
    """What the row groups of a Parquet file take in memory, one after the other.

    Texts are taken to be read as dictionaries (`parquet_texts`); those inside of lists and other
    structures are not, and may take more than is said here.

    Args:
        metadata: Of the file.
        file: Its name.

    Raises:
        DataError: The metadata is damaged.
    """
    columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    has_texts = any(column.physical_type == "BYTE_ARRAY" for column in columns)
    items = _items(file) if any(column.max_repetition_level for column in columns) else None
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        rows = max(group.num_rows, 0)
        counts = [rows] * len(columns) if items is None else items[index]
        values = (max(rows, n) * _width(c) for c, n in zip(columns, counts, strict=True))
        yield sum(values) + (max(group.total_byte_size, 0) if has_texts else 0)


def _width(column: parquet.ColumnSchema) -> int:
    width = _PARQUET_BYTES[column.physical_type]
    if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
        width = max(width, column.length)
    return width + (_LEVEL_BYTES if column.max_repetition_level else 0)


def _items(file: str) -> list[list[int]]:
    """How many values each column of each row group has, those in lists counted one by one."""
    try:
        return [
            [chunk[_COLUMN_METADATA][_NUM_VALUES] for chunk in group[_COLUMNS_OF_GROUP]]
            for group in footer_of(file)[_ROW_GROUPS]
        ]
    except (LookupError, TypeError):
        raise DataError("cannot be read: its metadata is damaged", file=file) from None


def parquet_texts(metadata: parquet.FileMetaData) -> list[str]:
    """The columns of texts: as dictionaries they take no more than the file has of them.

    One text of a mebibyte, named by every row of a million, would be a tebibyte otherwise. Texts
    inside of a structure are left out: Arrow puts no structures together from dictionaries.
    """
    columns = (metadata.schema.column(i) for i in range(metadata.num_columns))
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and column.logical_type.type in ("STRING", "NONE")
        and column.path == column.name
    ]


def arrow_bytes(source: pa.NativeFile, batches: int | None) -> Iterator[int]:
    """What the batches of an Arrow stream take in memory, dictionaries among them.

    Each compressed buffer begins with its size, which Arrow would allocate.

    Args:
        source: Stands where the stream begins.
        batches: How many record batches are looked at; None for all.

    Raises:
        ValueError: There are fewer.
        ArrowException: It is no such stream.
    """
    found = 0
    for message in _messages(source):
        kind, promised = _message_bytes(message)
        found += kind == _RECORD_BATCH
        yield promised
        if found == batches:
            return
    if batches is not None and found < batches:
        raise ValueError(f"{found} batches, but the file's end lists {batches}")


def _messages(source: pa.NativeFile) -> Iterator[ipc.Message]:
    reader = ipc.MessageReader.open_stream(source)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _message_bytes(message: ipc.Message) -> tuple[int, int]:
    """A message's kind, and what its buffers take in memory."""
    data, body = memoryview(message.metadata), memoryview(message.body or b"")
    root = _pointed(data, 0)
    kind_at, header = _field(data, root, _HEADER_TYPE), _field(data, root, _HEADER)
    kind = data[kind_at] if kind_at else 0
    if not header or kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return kind, 0
    batch = _pointed(data, header)
    if kind == _DICTIONARY_BATCH:
        batch = _pointed(data, _field(data, batch, _DATA_OF_DICTIONARY))
    is_packed = bool(_field(data, batch, _COMPRESSION))
    return kind, sum(
        _unpacked(body, offset, length) if is_packed else length
        for offset, length in _buffers(data, batch)
    )


def _buffers(data: memoryview, batch: int) -> Iterator[tuple[int, int]]:
    """Where a batch's buffers stand in the body: offset and length."""
    field = _field(data, batch, _BUFFERS)
    if not field:
        return
    vector = _pointed(data, field)
    (count,) = struct.unpack_from("<I", data, vector)
    for index in range(count):
        yield struct.unpack_from("<qq", data, vector + 4 + 16 * index)


def _unpacked(body: memoryview, offset: int, length: int) -> int:
    """The size that a compressed buffer begins with; -1 says that it is not compressed."""
    if length < 8:
        return 0
    (size,) = struct.unpack_from("<q", body, offset)
    return length if size == -1 else max(size, 0)


def _pointed(data: memoryview, place: int) -> int:
    """Where an offset of a FlatBuffer leads."""
    (offset,) = struct.unpack_from("<I", data, place)
    return place + int(offset)


def _field(data: memoryview, table: int, field: int) -> int:
    """Where a field of a FlatBuffer's table stands; 0 if it has none."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    entry = 4 + 2 * field
    if entry >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, table - back + entry)
    return table + int(offset) if offset else 0
