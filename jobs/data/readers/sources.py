"""From what a spec names to rows: files, folders, globs, IDX files, and the shipped data."""

import glob
from pathlib import Path

from sumgrad.jobs.data.dataset import RawDataset, concatenate
from sumgrad.jobs.data.readers.builtin import read_builtin
from sumgrad.jobs.data.readers.idx import find_idx_images, is_idx, read_idx
from sumgrad.jobs.errors import DataNotFound
from sumgrad.jobs.spec.schema import BUILTIN
from sumgrad.jobs.support.redaction import redact


def read_dataset(
    source: str,
    role: str,
    label: tuple[str, ...],
    features: tuple[str, ...] | None = None,
    *,
    numbers: bool = False,
    with_labels: bool = True,
) -> RawDataset:
    """Read every row that a source has.

    Args:
        source: A file, a folder, a glob, or a name in `BUILTIN`.
        role: train, validation or test: which of MNIST's files a folder of them stands for.
        label: Label columns.
        features: Feature columns; None for all but the label.
        numbers: Whether labels are the numbers of a regression.
        with_labels: Whether to read labels.

    Raises:
        DataNotFound: Nothing there, or a column is missing.
        DataError: Rows that cannot be trained on.
    """
    if source in BUILTIN:
        return read_builtin(source, label, numbers=numbers).select(features)
    if "://" in source:
        raise DataNotFound(f"{redact(source)}: data is read from this machine's files only")
    path = Path(source).expanduser()
    images = find_idx_images(path, role) if path.is_dir() else path if is_idx(path) else None
    if images is not None:
        rows = read_idx(images, label, numbers=numbers, with_labels=with_labels)
        return rows.select(features)
    return _read_tables(
        find_table_files(path, source), label, features, numbers=numbers, with_labels=with_labels
    )


def _read_tables(
    files: list[Path],
    label: tuple[str, ...],
    features: tuple[str, ...] | None,
    *,
    numbers: bool,
    with_labels: bool,
) -> RawDataset:
    """Rows of all files; the first one's columns and their order hold for the others."""
    # PyArrow takes most of a second to import, which IDX and shipped rows do not need.
    from sumgrad.jobs.data.columns import check_same_columns, rows_of_table
    from sumgrad.jobs.data.readers.tables import read_table

    pieces: list[RawDataset] = []
    for path in files:
        table, file = read_table(path), str(path)
        if pieces and features is None:
            check_same_columns(table, file, pieces[0])
        wanted = pieces[0].columns if pieces else features
        pieces.append(
            rows_of_table(table, file, wanted, label, numbers=numbers, with_labels=with_labels)
        )
    return concatenate(pieces)


def find_table_files(path: Path, source: str) -> list[Path]:
    """The table files that a source stands for, in the order of their names.

    Args:
        path: Of the source, with the home folder's name filled in.
        source: As a spec names it: a file, a folder or a glob.

    Raises:
        DataNotFound: There are none.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        return _files_in(path)
    if glob.has_magic(source):
        # Path.glob takes no absolute patterns.
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207
        found = sorted(file for name in names if _is_wanted(file := Path(name), file.parent))
        if not found:
            raise DataNotFound(f"no file matches {source}")
        return found
    raise DataNotFound(f"there is no file or folder {path}", hint=_hint(path))


def _files_in(folder: Path) -> list[Path]:
    from sumgrad.jobs.data.readers.tables import KNOWN, is_table

    found = sorted(
        file for file in folder.rglob("*") if is_table(file) and _is_wanted(file, folder)
    )
    if not found:
        raise DataNotFound(f"the folder {folder} has no data files", hint=f"known: {KNOWN}")
    return found


def _is_wanted(file: Path, folder: Path) -> bool:
    """Whether it is a file and not hidden below a folder, nor a marker such as _SUCCESS."""
    names = file.relative_to(folder).parts
    return file.is_file() and not any(name.startswith((".", "_")) for name in names)


def _hint(path: Path) -> str:
    if path.name == "mnist":
        return (
            "MNIST does not come with sumgrad; 'sumgrad init mnist' says how to get it. "
            "Where it is: --set data.train=FOLDER --set data.test=FOLDER"
        )
    return f"data that comes along: {', '.join(BUILTIN)}"
