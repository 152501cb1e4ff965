"""From what a spec names to rows: files, folders, globs, IDX files, and the shipped data."""

import glob
from pathlib import Path

from jobs.data.idx import idx_images_in, is_idx, read_idx
from jobs.data.rows import RawRows, concatenate
from jobs.data.shipped import read_shipped
from jobs.errors import DataNotFound

#: Names that stand for data that comes along, not for paths.
SHIPPED = ("digits", "diabetes")


def read_rows(
    source: str,
    role: str,
    label: tuple[str, ...],
    features: tuple[str, ...] | None = None,
    *,
    numbers: bool = False,
    with_labels: bool = True,
) -> RawRows:
    """Read every row that a source has.

    Args:
        source: A file, a folder, a glob, or a name in `SHIPPED`.
        role: train, validation or test: which of MNIST's files a folder of them stands for.
        label: Label columns.
        features: Feature columns; None for all but the label.
        numbers: Whether labels are the numbers of a regression.
        with_labels: Whether to read labels.

    Raises:
        DataNotFound: Nothing there, or a column is missing.
        DataError: Rows that cannot be trained on.
    """
    if source in SHIPPED:
        return read_shipped(source, label).select(features)
    if "://" in source:
        raise DataNotFound(f"{source}: data is read from this machine's files only")
    path = Path(source).expanduser()
    images = idx_images_in(path, role) if path.is_dir() else path if is_idx(path) else None
    if images is not None:
        return read_idx(images, label, with_labels=with_labels).select(features)
    # PyArrow takes most of a second to import, which IDX and shipped rows do not need.
    from jobs.data.columns import rows_of_table
    from jobs.data.tables import read_table

    pieces = [
        rows_of_table(
            read_table(file),
            str(file),
            features,
            label,
            numbers=numbers,
            with_labels=with_labels,
        )
        for file in _files(path, source)
    ]
    return concatenate(pieces)


def _files(path: Path, source: str) -> list[Path]:
    """The table files that a source stands for, in the order of their names."""
    from jobs.data.tables import KNOWN, is_table

    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and is_table(file) and not _is_hidden(file.relative_to(path))
        )
        if not found:
            raise DataNotFound(f"the folder {path} has no data files", hint=f"known: {KNOWN}")
        return found
    if glob.has_magic(source):
        found = sorted(
            file
            for name in glob.glob(str(path), recursive=True)  # noqa: PTH207 - an absolute pattern
            if (file := Path(name)).is_file()
        )
        if not found:
            raise DataNotFound(f"no file matches {source}")
        return found
    raise DataNotFound(f"there is no file or folder {path}", hint=_hint(path))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _hint(path: Path) -> str:
    if path.name == "mnist":
        return (
            "MNIST does not come with sumgrad; 'sumgrad init mnist' says how to get it. "
            "Where it is: --set data.train=FOLDER --set data.test=FOLDER"
        )
    return f"data that comes along: {', '.join(SHIPPED)}"
