"""Read Arrow and Feather files after a check of the size that each batch has in memory.

Each compressed buffer starts with its size, which Arrow would allocate without a check. PyArrow
does not show these sizes, so they are read from the FlatBuffers of the messages; see
format/Message.fbs of Apache Arrow.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from sumgrad.jobs.data.readers.guard import ReadGuard

_FILE_MAGIC = b"ARROW1\0\0"  #: The first bytes of the file form; a stream follows.

# Positions of fields in the tables of a message.
_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_DATA_OF_DICTIONARY = 1
_BUFFERS, _COMPRESSION = 2, 3


def read_arrow(path: Path) -> pa.Table:
    """Return all rows of an Arrow file, in its file form or its stream form.

    The file form ends with a list of positions of its batches. The batches are read from the start
    instead, so that those are read whose sizes were checked.

    Raises:
        DataError: The rows do not fit into memory.
        ArrowException, OSError, ValueError, struct.error: The file is damaged.
    """
    with pa.OSFile(str(path)) as source:
        is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        count = ipc.open_file(source).num_record_batches if is_file else None
        start = len(_FILE_MAGIC) if is_file else 0
        source.seek(start)
        guard = ReadGuard(str(path))
        for size in batch_sizes(source, count):
            guard.add(size)
        source.seek(start)
        stream = ipc.open_stream(source)
        guard, batches = ReadGuard(str(path)), []
        for batch in islice(stream, count):
            # A damaged file can have offsets that point outside of the file.
            batch.validate(full=True)
            guard.add(batch.nbytes)
            batches.append(batch)
        return pa.Table.from_batches(batches, stream.schema)


def batch_sizes(source: pa.NativeFile, batches: int | None) -> Iterator[int]:
    """Yield the bytes that each message of an Arrow stream takes in memory.

    The source is positioned at the start; with None it looks at all record batches. Fewer batches
    raise ValueError, and anything but an Arrow stream ArrowException.
    """
    found = 0
    for message in ipc.MessageReader.open_stream(source):
        kind, size = _message_size(message)
        found += kind == _RECORD_BATCH
        yield size
        if found == batches:
            return
    if batches is not None and found < batches:
        raise ValueError(f"{found} batches, but the file's end lists {batches}")


def _message_size(message: ipc.Message) -> tuple[int, int]:
    """Return the kind of a message, and the bytes of its buffers in memory."""
    data, body = memoryview(message.metadata), memoryview(message.body or b"")
    root = _follow(data, 0)
    kind_at, header = _field(data, root, _HEADER_TYPE), _field(data, root, _HEADER)
    kind = data[kind_at] if kind_at else 0
    if not header or kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return kind, 0
    batch = _follow(data, header)
    if kind == _DICTIONARY_BATCH:
        batch = _follow(data, _field(data, batch, _DATA_OF_DICTIONARY))
    is_compressed = bool(_field(data, batch, _COMPRESSION))
    return kind, sum(
        _uncompressed_size(body, offset, length) if is_compressed else length
        for offset, length in _buffers(data, batch)
    )


def _buffers(data: memoryview, batch: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each buffer in the body of a message."""
    if field := _field(data, batch, _BUFFERS):
        vector = _follow(data, field)
        (count,) = struct.unpack_from("<I", data, vector)
        for index in range(count):
            yield struct.unpack_from("<qq", data, vector + 4 + 16 * index)


def _uncompressed_size(body: memoryview, offset: int, length: int) -> int:
    if length < 8:
        return 0
    (size,) = struct.unpack_from("<q", body, offset)
    # -1 marks a buffer that is stored uncompressed.
    return length if size == -1 else max(size, 0)


def _follow(data: memoryview, position: int) -> int:
    """Return the position that an offset in a FlatBuffer points to."""
    (offset,) = struct.unpack_from("<I", data, position)
    return position + int(offset)


def _field(data: memoryview, table: int, field: int) -> int:
    """Return the position of a field in a FlatBuffer's table; 0 if the table does not have it."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    entry = 4 + 2 * field
    if entry >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, table - back + entry)
    return table + int(offset) if offset else 0
