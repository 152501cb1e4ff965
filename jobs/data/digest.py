"""What identifies data: a hash of what was read, whatever is later held out or scaled."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import RawDataset

#: MLflow takes 36 at most.
_SHORT = 32


def digest_values(x: NDArray[Any], labels: NDArray[Any]) -> str:
    """Of the types, shapes and bytes of features (N, D) and labels; 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in (x, labels):
        digest.update(f"{array.dtype} {array.shape} ".encode())
        if array.dtype == object:
            digest.update("\0".join(map(str, array.tolist())).encode())
        else:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:_SHORT]


def digest_sources(sources: Iterable[tuple[str, RawDataset]]) -> str:
    """Of all that was read and the role that it was read for; 64 hexadecimal digits.

    It depends on features, labels, their names and the roles; not on file names, nor on what is
    held out of which role, nor on scaling.
    """
    digest = hashlib.sha256()
    for role, read in sources:
        facts = (role, read.features, read.label, digest_values(read.x, read.targets))
        digest.update(repr(facts).encode())
    return digest.hexdigest()
