"""Digests that identify data by its values, before rows are held out or scaled."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import RawDataset

#: MLflow accepts 36 characters.
_DIGEST_CHARACTERS = 32


def digest_values(x: NDArray[Any], labels: NDArray[Any]) -> str:
    """Return the digest of features (N, D) and labels, 32 hexadecimal digits.

    It covers types, shapes and values.
    """
    digest = hashlib.sha256()
    for array in (x, labels):
        digest.update(f"{array.dtype} {array.shape} ".encode())
        if array.dtype == object:
            digest.update("\0".join(map(str, array.tolist())).encode())
        else:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def digest_sources(sources: Iterable[tuple[str, RawDataset]]) -> str:
    """Return the digest of all sources of a job, 64 hexadecimal digits.

    It covers features, labels, their names and the splits; neither the names of files, nor which
    rows are held out, nor scaling.
    """
    digest = hashlib.sha256()
    for split, rows in sources:
        values = digest_values(rows.x, rows.targets)
        digest.update(repr((split, rows.features, rows.label, values)).encode())
    return digest.hexdigest()
