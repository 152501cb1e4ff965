"""The meaning of the columns of a data set, which is saved with the model.

This module needs only NumPy, because a saved model has to predict without other packages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sumgrad.model.validation import Array

Label = int | str
ScalingKind = Literal["none", "minmax", "standard"]
_BLOCK_ROWS = 4096  #: Rows per block, so that only one block of bytes becomes float64 at a time.


@dataclass(frozen=True)
class Scaling:
    """``x' = (x − offset)·factor``, with one pair of numbers for all features, or one for each."""

    kind: ScalingKind = "none"  #: How it was fitted.
    offset: tuple[float, ...] = (0.0,)  #: G numbers; G is 1 or the number of features.
    #: G numbers; 0 if the feature is constant in training, so that the scaled one is always 0.
    factor: tuple[float, ...] = (1.0,)

    def apply(self, x: NDArray[np.generic], dtype: DTypeLike) -> Array:
        """Return raw features x (N, D) scaled, (N, D), C-contiguous."""
        scaled = np.empty(x.shape, dtype=dtype)
        offset, factor = np.array(self.offset), np.array(self.factor)
        for start in range(0, len(x), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            block = x[rows].astype(np.float64)
            scaled[rows] = (block - offset) * factor
        return scaled

    @classmethod
    def fit(cls, kind: str, x: NDArray[np.generic], *, shared: bool) -> Self:
        """Fit a scaling to raw training rows x (N, D).

        ``minmax`` scales to 0–1, ``standard`` to mean 0 and deviation 1. With ``shared``, all
        features have one range, as the pixels of an image do.

        >>> Scaling.fit("minmax", np.array([[0, 5], [8, 5]]), shared=False)
        Scaling(kind='minmax', offset=(0.0, 5.0), factor=(0.125, 0.0))
        """
        if kind == "none":
            return cls()
        axis = None if shared else 0
        low = np.atleast_1d(x.min(axis=axis)).astype(np.float64)
        span = np.atleast_1d(x.max(axis=axis)).astype(np.float64) - low
        if kind == "minmax":
            return cls("minmax", tuple(low.tolist()), _inverse(span, span))
        mean, deviation = _mean_and_deviation(x, shared=shared)
        # Rounding gives a constant 0.1 a deviation of 1e-17, but a span of exactly 0.
        return cls("standard", tuple(mean.tolist()), _inverse(deviation, span))


def _inverse(spread: NDArray[np.float64], span: NDArray[np.float64]) -> tuple[float, ...]:
    """Return 1 / spread; 0 if a feature is constant, or its spread so small that this overflows."""
    smallest = np.finfo(np.float64).tiny
    varies = (spread >= smallest) & (span >= smallest)
    return tuple(np.divide(1.0, spread, out=np.zeros_like(spread), where=varies).tolist())


def _mean_and_deviation(
    x: NDArray[np.generic], *, shared: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation, computed in two passes over blocks."""
    axis = None if shared else 0
    count = x.size if shared else len(x)
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(x), _BLOCK_ROWS)]
    total = sum(np.sum(x[rows].astype(np.float64), axis=axis) for rows in blocks)
    mean = np.atleast_1d(np.asarray(total) / count)
    square = sum(np.sum(np.square(x[rows].astype(np.float64) - mean), axis=axis) for rows in blocks)
    return mean, np.sqrt(np.atleast_1d(np.asarray(square) / count))


#: Targets: class indices (N,), 0 or 1 (N, 1), one-hot (N, K), or numbers (N, K).
TargetKind = Literal["classes", "two_class", "one_hot", "numbers"]


@dataclass(frozen=True)
class DataSchema:
    """Columns, classes and scaling of a data set."""

    features: tuple[str, ...]
    targets: tuple[str, ...] | None = None  #: Names of the targets of a regression.
    #: The class of each output; of a single one, the negative and the positive. Else None.
    classes: tuple[Label, ...] | None = None
    list_column: str | None = None  #: The column that holds all features as a list.
    label: tuple[str, ...] = ("label",)
    kind: TargetKind = "classes"
    #: Every label of training. With `positive` there can be more labels than classes.
    seen: tuple[Label, ...] = ()
    positive: Label | None = None  #: The label with target 1 if there is one output.
    reject: str | None = None  #: Name of the class 'none of the above'.
    image_shape: tuple[int, int] | None = None  #: Height and width if rows are images.
    scaling: Scaling = field(default_factory=Scaling)

    @property
    def width(self) -> int:
        """Number of features, D_0."""
        return len(self.features)

    @property
    def columns_to_read(self) -> tuple[str, ...]:
        """The columns of a table that hold the features."""
        return self.features if self.list_column is None else (self.list_column,)

    @property
    def outputs(self) -> int:
        """Number of outputs of a network for this data."""
        if self.kind == "two_class":
            return 1
        return len(self.classes if self.classes is not None else self.targets or ())

    def encode(self, labels: NDArray[Any], dtype: DTypeLike) -> NDArray[np.generic]:
        """Return labels of training (N,), or numbers of a regression (N, K), as targets.

        Targets that are not class indices have the dtype.
        """
        if self.kind == "numbers":
            return np.ascontiguousarray(labels, dtype=dtype)
        if self.kind == "two_class":
            return np.asarray(labels == self.positive)[:, None].astype(dtype)
        positions = {label: index for index, label in enumerate(self.classes or ())}
        indices = np.array([positions[label] for label in labels.tolist()], dtype=np.int64)
        if self.kind == "one_hot":
            one_hot = np.zeros((len(indices), self.outputs), dtype=dtype)
            one_hot[np.arange(len(indices)), indices] = 1
            return one_hot
        return indices

    def columns(self, y: Array) -> dict[str, NDArray[Any]]:
        """Return the outputs y (N, D_L) of a network as named columns.

        For a classification they are ``prediction``, and ``probability_<class>`` for each class;
        for a regression a column for each target, or ``prediction`` for a single target.
        """
        if self.classes is None:
            names = self.targets or ()
            return dict(zip(names if len(names) > 1 else ("prediction",), y.T, strict=True))
        probabilities = np.hstack([1 - y, y]) if self.kind == "two_class" else y
        winner = (y[:, 0] >= 0.5).astype(int) if self.kind == "two_class" else y.argmax(axis=1)
        classes = np.array([str(label) for label in self.classes], dtype=object)
        if all(isinstance(label, int) for label in self.classes):
            classes = classes.astype(np.int64)
        return {"prediction": classes[winner]} | {
            f"probability_{name}": probabilities[:, j] for j, name in enumerate(self.classes)
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON represents exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        """Return the schema that `to_json` described; else a KeyError, TypeError or ValueError."""
        values = {name: _tuple(value) for name, value in description.items()}
        scaling = {name: _tuple(value) for name, value in dict(values.pop("scaling")).items()}
        schema = cls(**values, scaling=Scaling(**scaling))
        for name, is_valid in schema._checks().items():
            if not is_valid:
                raise ValueError(f"its field '{name}' is invalid")
        return schema

    def _checks(self) -> dict[str, object]:
        """Return for each field a true value if a data set can have it."""
        is_regression, scaling = self.kind == "numbers", self.scaling
        shape = self.image_shape
        return {
            "features": _all(self.features, str) and self.features,
            "targets": _all(self.targets, str) if is_regression else self.targets is None,
            "classes": self.classes is None if is_regression else _all(self.classes, int, str),
            "list_column": isinstance(self.list_column, str | None),
            "label": _all(self.label, str) and self.label,
            "kind": self.kind in get_args(TargetKind),
            "seen": _all(self.seen, int, str),
            "positive": isinstance(self.positive, int | str | None),
            "reject": isinstance(self.reject, str | None),
            "image_shape": shape is None or (_all(shape, int) and len(shape) == 2),
            "scaling": scaling.kind in get_args(ScalingKind)
            and _all((*scaling.offset, *scaling.factor), float)
            and {len(scaling.offset), len(scaling.factor)} in ({1}, {self.width}),
        }


def _all(values: object, *kinds: type) -> bool:
    """Return whether this is a tuple of values of these types only."""
    return isinstance(values, tuple) and all(type(value) in kinds for value in values)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
