"""MNIST's IDX files, plain or gzip. The header is never trusted with memory.

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

from sumgrad.jobs.data.dataset import FileSpan, RawDataset, pixel_names
from sumgrad.jobs.data.labels import shaped_labels
from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.support.memory import (
    available_bytes,
    check_memory_for_names,
    check_memory_for_rows,
)

_UNSIGNED_BYTE = 0x08
_CHUNK = 1 << 24
_NAME = re.compile(r"(?P<head>.*)(?P<kind>images|labels)(?P<dot>[-.])idx\d-ubyte(\.gz)?$")
_ROLE_HEADS = {"train": "train-", "validation": "t10k-", "test": "t10k-"}


def is_idx(path: Path) -> bool:
    """Whether a file's name is that of an IDX file."""
    return _NAME.match(path.name) is not None


def find_idx_images(folder: Path, role: str) -> Path | None:
    """The images file for a role in a folder of MNIST files; None if it holds no IDX files.

    Raises:
        DataNotFound: The folder has IDX files, but not those of the role.
    """
    files = sorted(path for path in folder.iterdir() if is_idx(path) and "images" in path.name)
    if not files:
        return None
    for path in files:
        if path.name.startswith(_ROLE_HEADS[role]):
            return path
    raise DataNotFound(f"{folder} has no file {_ROLE_HEADS[role]}images-idx3-ubyte[.gz]")


def read_idx(
    images: Path, label: tuple[str, ...], *, numbers: bool, with_labels: bool
) -> RawDataset:
    """Images and, from the file beside them, their labels.

    Args:
        images: The images file.
        label: What to call the labels.
        numbers: Whether labels are the numbers of a regression.
        with_labels: Whether to read them.

    Raises:
        DataNotFound: One of the two files is not there.
        DataError: A file is damaged, or the two do not belong together.
    """
    if _match(images)["kind"] == "labels":
        raise DataNotFound(f"{images} holds labels; name the images file beside it")
    pixels = read_array(images, dimensions=3)
    count, height, width = pixels.shape
    if not pixels.size:
        raise DataError("has no images", file=str(images))
    labels = _labels_of(images, count) if with_labels else None
    check_memory_for_names(height * width, str(images))
    return RawDataset(
        x=pixels.reshape(count, height * width),
        labels=None if labels is None else shaped_labels(labels, numbers=numbers),
        features=pixel_names(height, width),
        label=label,
        parts=(FileSpan(str(images), count),),
        image_shape=(height, width),
    )


def _match(path: Path) -> re.Match[str]:
    match = _NAME.match(path.name)
    if match is None:
        raise DataNotFound(f"{path} is not named as IDX files are: train-images-idx3-ubyte[.gz]")
    return match


def _labels_of(images: Path, count: int) -> NDArray[np.uint8]:
    path = _labels_path(images)
    labels = read_array(path, dimensions=1)
    if len(labels) != count:
        raise DataError(
            f"{len(labels)} labels, but {images.name} has {count} images", file=str(path)
        )
    return labels


def _labels_path(images: Path) -> Path:
    match = _match(images)
    plain = f"{match['head']}labels{match['dot']}idx1-ubyte"
    for name in (plain, f"{plain}.gz"):
        if (images.parent / name).is_file():
            return images.parent / name
    raise DataNotFound(f"no labels for {images}: there is no {plain}[.gz] beside it")


def read_array(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """The values of an IDX file of unsigned bytes.

    Raises:
        DataNotFound: There is no such file, or it is a folder, a device or a pipe.
        DataError: Not IDX, truncated, longer than its header says, or damaged gzip.
    """
    if path.exists() and not path.is_file():
        # Opening a pipe would wait for somebody to write into it.
        raise DataNotFound(f"{path} is no regular file")
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file
            return _parse(stream, str(path), dimensions)
    except FileNotFoundError:
        raise DataNotFound(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", file=str(path)) from None


def _parse(stream: BinaryIO, file: str, dimensions: int) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError("is empty" if not magic else "ends in its header", file=file)
    if magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE or magic[3] != dimensions:
        expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions]).hex()
        raise DataError(f"is no IDX file: begins {magic.hex()}, expected {expected}", file=file)
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError("ends in its header", file=file)
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    expected_size = math.prod(shape)
    values = b"".join(_chunks(stream, expected_size + 1, file))
    if len(values) != expected_size:
        more = "more than" if len(values) > expected_size else f"{len(values):,} of"
        raise DataError(
            f"the header promises {' × '.join(map(str, shape))} values, "
            f"the file has {more} {expected_size:,}",
            file=file,
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _chunks(stream: BinaryIO, limit: int, file: str) -> Iterator[bytes]:
    """What the file really holds, up to a limit: a header's promise allocates nothing."""
    free, held = available_bytes(), 0
    while held < limit and (chunk := stream.read(min(_CHUNK, limit - held))):
        if held:
            # There is more than a few bytes, so that the promise may be meant.
            check_memory_for_rows(limit, file, free=free)
        held += len(chunk)
        yield chunk
