"""Data sets that need no download, because scikit-learn is installed with them.

The files are read from the installed package, since importing scikit-learn takes seconds.
"""

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import FileSpan, RawDataset, pixel_names, whole_labels
from sumgrad.jobs.errors import DataNotFound

DIABETES_FEATURES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")


def read_builtin(name: str, label: tuple[str, ...], *, numeric_labels: bool) -> RawDataset:
    """Return the rows of a built-in data set.

    ``digits``: 1,797 handwritten digits of 8×8 pixels from 0 to 16, from the UCI repository.
    ``diabetes``: 442 patients, ten measurements and the progression of the disease a year later,
    from Efron et al., 2004.

    Raises:
        DataNotFound: scikit-learn is not installed, or is installed without its data.
    """
    if name == "digits":
        table = _load("digits.csv.gz", ",")
        x, labels, shape = table[:, :64].astype(np.uint8), table[:, 64], (8, 8)
        features = pixel_names(*shape)
    else:
        x, labels = _load("diabetes_data_raw.csv.gz", None), _load("diabetes_target.csv.gz", None)
        features, shape = DIABETES_FEATURES, None
    targets = whole_labels(labels, numeric=numeric_labels) if label else None
    return RawDataset(x, targets, features, label, (FileSpan(name, len(x)),), image_shape=shape)


def _load(name: str, delimiter: str | None) -> NDArray[Any]:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataNotFound("built-in data comes with scikit-learn, which is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / name
    try:
        with gzip.open(path, "rt") as file:
            return np.loadtxt(file, delimiter=delimiter)
    except FileNotFoundError:
        raise DataNotFound(f"scikit-learn is installed without its data: no {path}") from None
