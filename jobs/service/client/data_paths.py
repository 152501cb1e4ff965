"""Data of a job before its submission: what the sent spec names, and the files to upload."""

from pathlib import Path

from sumgrad.jobs.data.readers.idx import find_idx_images, find_idx_labels, is_idx
from sumgrad.jobs.data.readers.sources import find_table_files
from sumgrad.jobs.errors import DataNotFound, SubmissionError
from sumgrad.jobs.service.manifest import DATA_FOLDER, FILE_SCHEME
from sumgrad.jobs.spec.schema import BUILTIN, JobSpec
from sumgrad.jobs.support.files import expand_user
from sumgrad.jobs.support.redaction import redact

#: Ray's job server refuses packages of more than 100 MiB, but only after the upload.
_MAX_BYTES = 90 * 2**20
_HINT = (
    "--upload sends small files; write a path on the cluster's head as file:///data/rows.parquet"
)


def prepare_data(spec: JobSpec, *, upload: bool) -> tuple[dict[str, str], dict[str, Path]]:
    """Return the sources that change in the sent spec, by split, and the files to upload for them.

    Relative paths of the spec start in the current folder; the keys of the files are their paths
    below the job's folder. With ``upload``, files of this machine may be sent.

    Raises:
        SubmissionError: Files would have to be sent and may not, or are too large.
        DataNotFound: Files are missing.
    """
    changed: dict[str, str] = {}
    files: dict[str, Path] = {}
    for split, source in spec.data.sources.items():
        if source in BUILTIN or source.startswith(f"{FILE_SCHEME}/"):
            continue
        if "://" in source:
            problem = f"data.{split}: {redact(source)}: data are read from files only"
            raise SubmissionError(problem, hint=_HINT)
        path = expand_user(source)
        if not upload:
            where = "is on this machine" if path.exists() else "is a local path"
            problem = f"data.{split}: {source} {where}, where the cluster cannot read it"
            raise SubmissionError(problem, hint=_HINT)
        name, found = _files_of(path, source, split)
        changed[split] = f"{DATA_FOLDER}/{split}/{name}".rstrip("/")
        files |= {f"{DATA_FOLDER}/{split}/{each}": file for each, file in found.items()}
    size = sum(file.stat().st_size for file in files.values())
    if size > _MAX_BYTES:
        sizes = f"{size / 2**20:,.0f} MiB, and --upload sends at most {_MAX_BYTES / 2**20:.0f} MiB"
        hint = "copy them to the cluster's head and write file:///PATH"
        raise SubmissionError(f"the data of this job have {sizes}", hint=hint)
    return changed, files


def _files_of(path: Path, source: str, split: str) -> tuple[str, dict[str, Path]]:
    """Return the name of a single file, "" for several, and all files by relative path."""
    if path.is_file():
        return path.name, _with_labels(path) if is_idx(path) else {path.name: path}
    if path.is_dir() and (images := find_idx_images(path, split)) is not None:
        return "", _with_labels(images)
    try:
        files = find_table_files(path, source)
    except DataNotFound as error:
        raise DataNotFound(f"data.{split}: {error.message} on this machine", hint=_HINT) from None
    if path.is_dir():
        return "", {file.relative_to(path).as_posix(): file for file in files}
    # A numbered folder for each file keeps the files of different folders in order.
    digits = len(str(len(files)))
    return "", {f"{i:0{digits}}/{file.name}": file for i, file in enumerate(files)}


def _with_labels(images: Path) -> dict[str, Path]:
    """Return a file of IDX images and the file with their labels, if there is one, by name."""
    return {file.name: file for file in (images, find_idx_labels(images)) if file is not None}
