"""Data that needs no download: it comes with scikit-learn.

The files are read straight from the installed package; importing scikit-learn takes seconds.
"""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import FileSpan, RawDataset, pixel_names
from sumgrad.jobs.data.labels import shaped_labels
from sumgrad.jobs.errors import DataNotFound

DIABETES_FEATURES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")


def read_builtin(name: str, label: tuple[str, ...], *, numbers: bool) -> RawDataset:
    """Rows of a shipped data set.

    Args:
        name: ``digits``: 1,797 handwritten digits of 8×8 pixels from 0 to 16, from the UCI
            repository; ``diabetes``: 442 patients, ten measurements and the progression of the
            disease a year later, from Efron et al., 2004.
        label: What to call the labels.
        numbers: Whether labels are the numbers of a regression.

    Raises:
        DataNotFound: scikit-learn is not installed, or without its data.
    """
    if name == "digits":
        table = _load("digits.csv.gz", ",")
        return RawDataset(
            x=table[:, :64].astype(np.uint8),
            labels=shaped_labels(table[:, 64], numbers=numbers),
            features=pixel_names(8, 8),
            label=label,
            parts=(FileSpan("digits", len(table)),),
            image_shape=(8, 8),
        )
    measurements = _load("diabetes_data_raw.csv.gz", None)
    progression = _load("diabetes_target.csv.gz", None)
    return RawDataset(
        x=measurements,
        labels=shaped_labels(progression, numbers=numbers),
        features=DIABETES_FEATURES,
        label=label,
        parts=(FileSpan("diabetes", len(measurements)),),
    )


def _load(name: str, delimiter: str | None) -> NDArray[np.float64]:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataNotFound("the shipped data comes with scikit-learn, which is not installed")
    path = Path(package.origin).parent / "datasets" / "data" / name
    try:
        with gzip.open(path, "rt") as file:
            return np.loadtxt(file, delimiter=delimiter)
    except FileNotFoundError:
        raise DataNotFound(f"scikit-learn is installed without its data: no {path}") from None
