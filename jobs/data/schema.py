"""What the columns of the data mean: it is stored with the model, and rules how rows are read.

NumPy and the standard library only, for a saved model needs nothing more to predict.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sumgrad.model.validation import Array

Label = int | str
#: Rows that are looked at together, so that bytes need not all become float64 at once.
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Scaling:
    """``x' = (x − offset)·factor``, for all features alike or for each its own.

    Attributes:
        kind: How it was fitted.
        offset: G numbers; G is 1 or the number of features.
        factor: G numbers; 0 for a feature that was constant in training, which says nothing:
            it is 0 for every row, whatever its value.
    """

    kind: Literal["none", "minmax", "standard"] = "none"
    offset: tuple[float, ...] = (0.0,)
    factor: tuple[float, ...] = (1.0,)

    def apply(self, x: NDArray[np.generic], dtype: DTypeLike) -> Array:
        """Scaled features, (N, D), C-contiguous: x (N, D) holds raw ones."""
        scaled = np.empty(x.shape, dtype=dtype)
        offset, factor = np.array(self.offset), np.array(self.factor)
        for start in range(0, len(x), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            block = x[rows].astype(np.float64)
            scaled[rows] = (block - offset) * factor
        return scaled

    @classmethod
    def fit(cls, kind: str, x: NDArray[np.generic], *, shared: bool) -> Self:
        """Fit to the training rows.

        Args:
            kind: ``none``, ``minmax`` (to 0–1) or ``standard`` (to mean 0 and deviation 1).
            x: Raw features, (N, D).
            shared: One range for all features, as for an image's pixels.

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
        mean, deviation = _moments(x, shared=shared)
        # Rounding gives a constant 0.1 a deviation of 1e-17. Its span is exactly 0.
        return cls("standard", tuple(mean.tolist()), _inverse(deviation, span))


def _inverse(spread: NDArray[np.float64], span: NDArray[np.float64]) -> tuple[float, ...]:
    """1 over each spread; 0 where nothing varies, or so little that 1 over it overflows."""
    least = np.finfo(np.float64).tiny
    varies = (spread >= least) & (span >= least)
    return tuple(np.divide(1.0, spread, out=np.zeros_like(spread), where=varies).tolist())


def _moments(
    x: NDArray[np.generic], *, shared: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation in two passes of blocks."""
    axis = None if shared else 0
    count = x.size if shared else len(x)
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(x), _BLOCK_ROWS)]
    total = sum(np.sum(x[rows].astype(np.float64), axis=axis) for rows in blocks)
    mean = np.atleast_1d(np.asarray(total) / count)
    square = sum(np.sum(np.square(x[rows].astype(np.float64) - mean), axis=axis) for rows in blocks)
    return mean, np.sqrt(np.atleast_1d(np.asarray(square) / count))


#: What targets look like: class indices (N,), 0 or 1 (N, 1), one-hot (N, K), or numbers (N, K).
TargetKind = Literal["classes", "two_class", "one_hot", "numbers"]


@dataclass(frozen=True)
class DataSchema:
    """Columns, classes and scaling of a job's data.

    Attributes:
        features: Feature columns in their order.
        targets: What the outputs are called: the label columns of a regression.
        classes: What each output stands for; with one output the negative and the positive
            class. None for a regression.
        list_column: The one column that holds all features as a list, or None.
        label: The label column, or columns.
        kind: What targets look like.
        seen: Every label that training had; with `positive` more than there are classes.
        positive: The label that counts as 1, with one output.
        reject: The name of the class of rows that are none of the others, or None.
        image_shape: Height and width, where rows are images.
        scaling: Of the features.
    """

    features: tuple[str, ...]
    targets: tuple[str, ...] | None = None
    classes: tuple[Label, ...] | None = None
    list_column: str | None = None
    label: tuple[str, ...] = ("label",)
    kind: TargetKind = "classes"
    seen: tuple[Label, ...] = ()
    positive: Label | None = None
    reject: str | None = None
    image_shape: tuple[int, int] | None = None
    scaling: Scaling = field(default_factory=Scaling)

    @property
    def width(self) -> int:
        """D_0: how many features a row has."""
        return len(self.features)

    @property
    def columns_to_read(self) -> tuple[str, ...]:
        """The columns that a table of such rows has its features in."""
        return self.features if self.list_column is None else (self.list_column,)

    @property
    def outputs(self) -> int:
        """How many outputs a network for this data has."""
        if self.kind == "two_class":
            return 1
        return len(self.classes if self.classes is not None else self.targets or ())

    def encode(self, labels: NDArray[Any], dtype: DTypeLike) -> NDArray[np.generic]:
        """Labels, all of which training has seen, as targets.

        Args:
            labels: (N,) labels, or (N, K) numbers of a regression.
            dtype: Of targets that are no class indices.
        """
        if self.kind == "numbers":
            return np.ascontiguousarray(labels, dtype=dtype)
        if self.kind == "two_class":
            return np.asarray(labels == self.positive)[:, None].astype(dtype)
        places = {label: index for index, label in enumerate(self.classes or ())}
        indices = np.array([places[label] for label in labels.tolist()], dtype=np.int64)
        if self.kind == "one_hot":
            one_hot = np.zeros((len(indices), self.outputs), dtype=dtype)
            one_hot[np.arange(len(indices)), indices] = 1
            return one_hot
        return indices

    def columns(self, y: Array) -> dict[str, NDArray[Any]]:
        """Outputs as named columns.

        Args:
            y: (N, D_L).

        Returns:
            For a classification ``prediction`` and a ``probability_<class>`` for each class; for
            a regression one column for each target, a single one being called ``prediction``.
        """
        if self.classes is None:
            names = self.targets or ()
            return dict(zip(names if len(names) > 1 else ("prediction",), y.T, strict=True))
        shares = np.hstack([1 - y, y]) if self.kind == "two_class" else y
        winner = (y[:, 0] >= 0.5).astype(int) if self.kind == "two_class" else y.argmax(axis=1)
        return {"prediction": self.class_names()[winner]} | {
            f"probability_{name}": shares[:, j] for j, name in enumerate(self.classes)
        }

    def class_names(self) -> NDArray[Any]:
        """The classes as an array: whole numbers if all are, else text."""
        classes = self.classes or ()
        if all(isinstance(label, int) for label in classes):
            return np.array(classes, dtype=np.int64)
        return np.array([str(label) for label in classes], dtype=object)

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON keeps exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """The schema that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: It is not such a description.
        """
        values = {name: _tuple(value) for name, value in facts.items()}
        scaling = {name: _tuple(value) for name, value in dict(values.pop("scaling")).items()}
        schema = cls(**values, scaling=Scaling(**scaling))
        odd = next(schema._odd(), None)
        if odd is not None:
            raise ValueError(f"its {odd} cannot be that")
        return schema

    def _odd(self) -> Iterator[str]:
        """Names of attributes that no data of ours could have given."""
        is_regression = self.kind == "numbers"
        sizes, scaling = (1, len(self.features)), self.scaling
        sound = {
            "features": _all(self.features, str) and self.features,
            "targets": _all(self.targets, str) if is_regression else self.targets is None,
            "classes": self.classes is None if is_regression else _all(self.classes, int, str),
            "list_column": isinstance(self.list_column, str | None),
            "label": _all(self.label, str) and self.label,
            "kind": self.kind in get_args(TargetKind),
            "seen": _all(self.seen, int, str),
            "positive": isinstance(self.positive, int | str | None),
            "reject": isinstance(self.reject, str | None),
            "image_shape": self.image_shape is None
            or (_all(self.image_shape, int) and len(self.image_shape) == 2),
            "scaling": scaling.kind in ("none", "minmax", "standard")
            and _all(scaling.offset, float)
            and _all(scaling.factor, float)
            and len(scaling.offset) == len(scaling.factor)
            and len(scaling.offset) in sizes,
        }
        return (name for name, is_sound in sound.items() if not is_sound)


def _all(values: object, *kinds: type) -> bool:
    """Whether it is a tuple of values of these types alone."""
    return isinstance(values, tuple) and all(type(value) in kinds for value in values)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
