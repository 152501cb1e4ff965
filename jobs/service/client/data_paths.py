"""Data of submitted jobs: paths that the cluster can read, and files to upload."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumgrad.jobs.data.readers.idx import find_idx_images, is_idx
from sumgrad.jobs.data.readers.sources import find_table_files
from sumgrad.jobs.errors import DataNotFound, SubmissionError
from sumgrad.jobs.service.manifest import DATA_FOLDER
from sumgrad.jobs.spec.schema import BUILTIN, JobSpec
from sumgrad.jobs.support.redaction import redact

ROLES = ("train", "validation", "test")
#: Start of a path on the cluster's head.
FILE_SCHEME = "file://"
#: Ray's job server refuses packages of more than 100 MiB, but only after the upload.
_MAX_BYTES = 90 * 2**20
_HINT = (
    "--upload sends small files; write a path on the cluster's head as file:///data/rows.parquet"
)


@dataclass(frozen=True)
class Upload:
    """Files to send with a job.

    Attributes:
        files: By path below the job's folder, the file on this machine.
        size: Bytes of all files.
    """

    files: Mapping[str, Path]
    size: int

    def copy(self, folder: Path) -> None:
        """Copy the files into a folder."""
        for name, file in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)


def local_sources(spec: JobSpec) -> dict[str, str]:
    """Return the sources on this machine that a spec names, by role."""
    sources = {role: getattr(spec.data, role) for role in ROLES}
    return {
        role: source
        for role, source in sources.items()
        if isinstance(source, str) and source not in BUILTIN and "://" not in source
    }


def prepare_data(spec: JobSpec, *, upload: bool) -> tuple[dict[str, str], Upload]:
    """Return the sources to name in the sent spec, and the files to upload for them.

    Args:
        spec: With paths relative to the current folder.
        upload: Whether files of this machine may be sent.

    Returns:
        The sources that change, by role, and the files.

    Raises:
        SubmissionError: Files would have to be sent and may not, or are too large.
        DataNotFound: Files are missing.
    """
    _check_schemes(spec)
    changed: dict[str, str] = {}
    files: dict[str, Path] = {}
    for role, source in local_sources(spec).items():
        path = _expand_home(source, role)
        if not upload:
            where = "is on this machine" if path.exists() else "is a local path"
            raise SubmissionError(
                f"data.{role}: {source} {where}, where the cluster cannot read it", hint=_HINT
            )
        name, found = _files_of(path, source, role)
        changed[role] = f"{DATA_FOLDER}/{role}/{name}".rstrip("/")
        files |= {f"{DATA_FOLDER}/{role}/{each}": file for each, file in found.items()}
    size = sum(file.stat().st_size for file in files.values())
    if size > _MAX_BYTES:
        raise SubmissionError(
            f"the data of this job have {size / 2**20:,.0f} MiB, and --upload sends at most "
            f"{_MAX_BYTES / 2**20:.0f} MiB",
            hint="copy them to the cluster's head and write file:///PATH",
        )
    return changed, Upload(files, size)


def file_url_paths(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the ``file://`` sources of a data section as plain paths, by role."""
    return {
        role: source.removeprefix(FILE_SCHEME)
        for role in ROLES
        if isinstance(source := data.get(role), str) and source.startswith(f"{FILE_SCHEME}/")
    }


def _check_schemes(spec: JobSpec) -> None:
    """Raise if a source is a URL of something other than a file."""
    for role in ROLES:
        source = getattr(spec.data, role)
        is_url = isinstance(source, str) and "://" in source
        if is_url and not source.startswith(f"{FILE_SCHEME}/"):
            raise SubmissionError(
                f"data.{role}: {redact(source)}: data are read from files only", hint=_HINT
            )


def _files_of(path: Path, source: str, role: str) -> tuple[str, dict[str, Path]]:
    """Return the name of a single file, "" for several, and all files by relative path."""
    if path.is_file():
        if is_idx(path):
            # The labels of IDX images are in a file beside them.
            return path.name, {file.name: file for file in path.parent.iterdir() if is_idx(file)}
        return path.name, {path.name: path}
    if path.is_dir() and find_idx_images(path, role) is not None:
        return "", {file.name: file for file in path.iterdir() if is_idx(file)}
    try:
        files = find_table_files(path, source)
    except DataNotFound as error:
        message = f"data.{role}: {error.message} on this machine"
        raise DataNotFound(message, hint=_HINT) from None
    if path.is_dir():
        return "", {file.relative_to(path).as_posix(): file for file in files}
    # A numbered folder for each file keeps the files of different folders in order.
    digits = len(str(len(files)))
    return "", {f"{i:0{digits}}/{file.name}": file for i, file in enumerate(files)}


def _expand_home(source: str, role: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise DataNotFound(f"data.{role}: {source} names an unknown user's home folder") from None
