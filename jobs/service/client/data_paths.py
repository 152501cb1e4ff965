"""The data that a submitted spec names: what the cluster can reach, and what is on this machine."""

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
#: Ray's job server refuses packages of more, and says so only after the upload.
MOST_BYTES = 90 * 2**20
#: A path on the cluster's machines is written so.
FILE_SCHEME = "file://"
_HINT = (
    "--upload sends small files along; a path that the cluster's head has is written "
    "file:///data/rows.parquet"
)


@dataclass(frozen=True)
class Upload:
    """Files of this machine that go along.

    Attributes:
        files: Where each goes below the job's folder, and where it is now.
        size: Bytes in all.
    """

    files: Mapping[str, Path]
    size: int

    def copy(self, folder: Path) -> None:
        """Put them into a folder."""
        for name, file in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)


def local_sources(spec: JobSpec) -> dict[str, str]:
    """What a spec's data section names on this machine, by role."""
    named = {role: getattr(spec.data, role) for role in ROLES}
    return {
        role: source
        for role, source in named.items()
        if isinstance(source, str) and source not in BUILTIN and "://" not in source
    }


def with_upload(spec: JobSpec, *, upload: bool) -> tuple[dict[str, str], Upload]:
    """What the data section is to name on the cluster, and what has to go along for it.

    Args:
        spec: As its owner wrote it; relative paths mean the current folder.
        upload: Whether data of this machine may go along.

    Returns:
        The sources that change, by role, and the files.

    Raises:
        SubmissionError: They may not, or are too large.
        DataNotFound: There are none.
    """
    _expect_files(spec)
    sources = local_sources(spec)
    if sources and not upload:
        role, source = next(iter(sources.items()))
        what = "is on this machine" if _path(source, role).exists() else "is a local path"
        raise SubmissionError(
            f"data.{role}: {source} {what}, where the cluster cannot read it", hint=_HINT
        )
    changed: dict[str, str] = {}
    files: dict[str, Path] = {}
    for role, source in sources.items():
        name, found = _files_of(source, role)
        changed[role] = f"{DATA_FOLDER}/{role}/{name}" if name else f"{DATA_FOLDER}/{role}"
        files |= {f"{DATA_FOLDER}/{role}/{path}": file for path, file in found.items()}
    size = sum(file.stat().st_size for file in files.values())
    if size > MOST_BYTES:
        raise SubmissionError(
            f"the data of this job are {size / 2**20:,.0f} MiB, and at most "
            f"{MOST_BYTES / 2**20:.0f} MiB go along",
            hint="put them where the cluster's head can read them, and write file:///PATH",
        )
    return changed, Upload(files, size)


def _expect_files(spec: JobSpec) -> None:
    """Raise where a source is on no machine at all."""
    for role in ROLES:
        source = getattr(spec.data, role)
        if isinstance(source, str) and "://" in source and not source.startswith(f"{FILE_SCHEME}/"):
            raise SubmissionError(
                f"data.{role}: {redact(source)}: data are read from files only", hint=_HINT
            )


def _files_of(source: str, role: str) -> tuple[str, dict[str, Path]]:
    """The name of a single file, or of none for a folder, and the files by relative path."""
    path = _path(source, role)
    if path.is_file():
        if is_idx(path):
            # IDX images have their labels in a file beside them.
            return path.name, {file.name: file for file in path.parent.iterdir() if is_idx(file)}
        return path.name, {path.name: path}
    if path.is_dir():
        images = find_idx_images(path, role)
        if images is not None:
            return "", {file.name: file for file in path.iterdir() if is_idx(file)}
    try:
        files = find_table_files(path, source)
    except DataNotFound as error:
        where = f"data.{role}: {error.message} on this machine"
        raise DataNotFound(where, hint=_HINT) from None
    if path.is_dir():
        return "", {file.relative_to(path).as_posix(): file for file in files}
    # A folder for each, so that they keep their order whatever folders they come from.
    digits = len(str(len(files)))
    return "", {f"{i:0{digits}}/{file.name}": file for i, file in enumerate(files)}


def _path(source: str, role: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise DataNotFound(f"data.{role}: {source} is in the home folder of nobody") from None


def file_url_paths(data: Mapping[str, Any]) -> dict[str, str]:
    """On the cluster: the ``file://`` sources of a data section as plain paths, by role."""
    return {
        role: source.removeprefix(FILE_SCHEME)
        for role in ROLES
        if isinstance(source := data.get(role), str) and source.startswith(f"{FILE_SCHEME}/")
    }
