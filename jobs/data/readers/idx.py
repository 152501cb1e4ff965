"""Read MNIST's IDX files, plain or gzip, without trusting the sizes in their headers.

Format: two zero bytes, a type code (0x08 is unsigned byte), the number of dimensions, each
dimension as a big-endian 32-bit number, then the values. Source: the MNIST database's home page.
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import FileSpan, RawDataset, pixel_names, whole_labels
from sumgrad.jobs.data.readers.guard import ReadGuard
from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.support.memory import check_memory_for_names

_UNSIGNED_BYTE = 0x08
_CHUNK_BYTES = 1 << 24
_NAME = re.compile(r"(?P<prefix>.*)(?:images|labels)(?P<dot>[-.])idx\d-ubyte(\.gz)?$")
_PREFIXES = {"train": "train-", "validation": "t10k-", "test": "t10k-"}


def is_idx(path: Path) -> bool:
    """Return whether a file's name is that of an IDX file."""
    return _NAME.match(path.name) is not None


def find_idx_images(folder: Path, split: str) -> Path | None:
    """Return the images file of a split in a folder of MNIST; None if it has no IDX files.

    A folder with IDX files, but not those of the split, raises `DataNotFound`.
    """
    files = sorted(path for path in folder.iterdir() if is_idx(path) and "images" in path.name)
    wanted = [path for path in files if path.name.startswith(_PREFIXES[split])]
    if files and not wanted:
        raise DataNotFound(f"{folder} has no file {_PREFIXES[split]}images-idx3-ubyte[.gz]")
    return wanted[0] if wanted else None


def find_idx_labels(images: Path) -> Path | None:
    """Return the file with the labels of an images file, which is beside it, if it exists."""
    name = _labels_name(images)
    candidates = (images.parent / name, images.parent / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _labels_name(images: Path) -> str:
    return _NAME.sub(r"\g<prefix>labels\g<dot>idx1-ubyte", images.name)


def read_idx(images: Path, label: tuple[str, ...], *, numeric_labels: bool) -> RawDataset:
    """Return images and, if labels are wanted, their labels from the file beside them.

    Raises:
        DataNotFound: One of the two files does not exist.
        DataError: A file is damaged, or their numbers of rows differ.
    """
    if images.name.startswith(_labels_name(images)):
        raise DataNotFound(f"{images} holds labels; name the images file beside it")
    pixels = read_array(images, dimensions=3)
    count, height, width = pixels.shape
    if not pixels.size:
        raise DataError("has no images", file=str(images))
    labels = None
    if label:
        labels = whole_labels(_read_labels(images, count), numeric=numeric_labels)
    check_memory_for_names(height * width, str(images))
    x, spans = pixels.reshape(count, height * width), (FileSpan(str(images), count),)
    names = pixel_names(height, width)
    return RawDataset(x, labels, names, label, spans, image_shape=(height, width))


def _read_labels(images: Path, count: int) -> NDArray[np.uint8]:
    path = find_idx_labels(images)
    if path is None:
        name = _labels_name(images)
        raise DataNotFound(f"no labels for {images}: there is no {name}[.gz] beside it")
    labels = read_array(path, dimensions=1)
    if len(labels) != count:
        problem = f"{len(labels)} labels, but {images.name} has {count} images"
        raise DataError(problem, file=str(path))
    return labels


def read_array(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Return the values of an IDX file of unsigned bytes.

    Raises:
        DataNotFound: The file does not exist, or is a folder, a device or a pipe.
        DataError: The file is not IDX, truncated, too long, or damaged gzip.
    """
    if path.exists() and not path.is_file():
        # Opening a pipe would block until another process writes into it.
        raise DataNotFound(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_compressed else file
            return _parse(stream, str(path), dimensions)
    except FileNotFoundError:
        raise DataNotFound(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", file=str(path)) from None


def _parse(stream: BinaryIO, file: str, dimensions: int) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError("ends in its header" if magic else "is empty", file=file)
    expected_magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if magic != expected_magic:
        problem = f"starts with {magic.hex()}, expected {expected_magic.hex()}"
        raise DataError(f"is not an IDX file: {problem}", file=file)
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError("ends in its header", file=file)
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    size = math.prod(shape)
    values = b"".join(_chunks(stream, size + 1, file))
    if len(values) != size:
        found = "more than" if len(values) > size else f"{len(values):,} of"
        promised = f"{' × '.join(map(str, shape))} values"
        problem = f"the header promises {promised}, the file has {found} {size:,}"
        raise DataError(problem, file=file)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _chunks(stream: BinaryIO, limit: int, file: str) -> Iterator[bytes]:
    """Yield what the file holds, up to a limit, so that no memory is used for a wrong header."""
    guard, size = ReadGuard(file), 0
    while size < limit and (chunk := stream.read(min(_CHUNK_BYTES, limit - size))):
        # After the first chunk the header may be right, so its size is checked at once.
        guard.check(limit if size else 0)
        size += len(chunk)
        yield chunk
