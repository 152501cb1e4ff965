"""Read the rows that a spec names: a file, a folder, a glob, IDX files or built-in data."""

import glob
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from sumgrad.jobs.data.dataset import RawDataset, concatenate
from sumgrad.jobs.data.readers.builtin import read_builtin
from sumgrad.jobs.data.readers.guard import check_stop
from sumgrad.jobs.data.readers.idx import find_idx_images, is_idx, read_idx
from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.spec.schema import BUILTIN
from sumgrad.jobs.support.files import expand_user
from sumgrad.jobs.support.redaction import redact

_MNIST_HINT = (
    "MNIST is not installed with sumgrad; to get it see 'sumgrad init mnist', then "
    "--set data.train=FOLDER --set data.test=FOLDER"
)
_logger = logging.getLogger(__name__)


def read_dataset(
    source: str,
    split: str,
    label: tuple[str, ...],
    features: tuple[str, ...] | None = None,
    *,
    numeric_labels: bool = False,
) -> RawDataset:
    """Read all rows of a source.

    Args:
        source: A file, a folder, a glob, or a name in `BUILTIN`.
        split: train, validation or test; selects files in a folder of MNIST's IDX files.
        label: Label columns; if there are none, labels are not read.
        features: Feature columns; None for all but the label.
        numeric_labels: Whether labels are the targets of a regression, not classes.

    Raises:
        DataNotFound: The source or a column does not exist.
        DataError: The rows cannot be trained on.
    """
    if source in BUILTIN:
        return read_builtin(source, label, numeric_labels=numeric_labels).select(features)
    if "://" in source:
        raise DataNotFound(f"{redact(source)}: data is read from files of this machine only")
    path = expand_user(source)
    images = find_idx_images(path, split) if path.is_dir() else path if is_idx(path) else None
    if images is not None:
        return read_idx(images, label, numeric_labels=numeric_labels).select(features)
    return _read_tables(find_table_files(path, source), label, features, numeric_labels)


def _read_tables(
    files: list[Path], label: tuple[str, ...], features: tuple[str, ...] | None, numeric: bool
) -> RawDataset:
    """Read the rows of all files, with the columns of the first file that has rows."""
    # Importing PyArrow takes nearly a second. IDX files and built-in data do not need it.
    from sumgrad.jobs.data.columns import check_same_columns, rows_of_table
    from sumgrad.jobs.data.readers.tables import read_table

    pieces: list[RawDataset] = []
    for path in files:
        check_stop()
        table, file = read_table(path), str(path)
        if not table.num_rows:
            _logger.info("%s has no rows and is skipped", file)
            continue
        if pieces and features is None:
            check_same_columns(table, file, pieces[0])
        columns = pieces[0].columns if pieces else features
        pieces.append(rows_of_table(table, file, columns, label, numeric_labels=numeric))
    if not pieces:
        raise DataError("has no rows", file=str(files[0]))
    return concatenate(pieces)


def find_table_files(path: Path, source: str) -> list[Path]:
    """Return the table files of a file, a folder or a glob, sorted by name; or `DataNotFound`.

    ``source`` is the text of the spec, and ``path`` the same with the user's home expanded.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        from sumgrad.jobs.data.readers.tables import KNOWN_FORMATS, is_table

        found = sorted(file for file in path.rglob("*") if is_table(file) and _is_data(file, path))
        problem, hint = f"the folder {path} has no data files", f"known: {KNOWN_FORMATS}"
    elif glob.has_magic(source):
        found = sorted(file for file in set(_expand(path)) if _is_data(file, file.parent))
        problem, hint = f"no file matches {source}", ""
    else:
        found = []
        problem, hint = f"there is no file or folder {path}", f"built-in data: {', '.join(BUILTIN)}"
        if path.name == "mnist":
            hint = _MNIST_HINT
    if not found:
        raise DataNotFound(problem, hint=hint)
    return found


def _expand(pattern: Path) -> Iterator[Path]:
    """Yield the paths that match a glob; ``**`` enters each folder once, also through links."""
    parts = pattern.parts
    if "**" not in parts:
        # Path.glob accepts no absolute patterns.
        yield from map(Path, glob.glob(str(pattern)))  # noqa: PTH207
        return
    index = parts.index("**")
    above, below = Path(*parts[:index]), Path(*(parts[index + 1 :] or ["*"]))
    entered: set[tuple[int, int]] = set()
    for root in sorted(_expand(above)):
        for folder, folders, _ in os.walk(root, followlinks=True):
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from _expand(Path(glob.escape(folder)) / below)


def _is_data(file: Path, folder: Path) -> bool:
    """Return whether this is a regular file, neither hidden nor a marker such as _SUCCESS."""
    names = file.relative_to(folder).parts
    return file.is_file() and not any(name.startswith((".", "_")) for name in names)
