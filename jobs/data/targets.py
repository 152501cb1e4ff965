"""What a job's labels become: classes, one of two, one-hot, or numbers."""

from typing import Any

import numpy as np

from jobs.data.rows import RawRows
from jobs.data.schema import DataSchema, Label
from jobs.errors import DataError, SpecError
from jobs.spec import JobSpec
from model.activations import make_activation
from model.checks import nearest

_OUTPUT_UNITS = "model.layers[{}].units"


def schema_for(spec: JobSpec, read: RawRows) -> DataSchema:
    """What the training rows mean for this job's network; their scaling is not fitted yet.

    Raises:
        SpecError: The labels and the output layer do not fit each other.
    """
    return DataSchema(
        features=read.features,
        list_column=read.list_column,
        image_shape=read.image_shape,
        label=read.label,
        **_label_facts(spec, read),
    )


def _label_facts(spec: JobSpec, read: RawRows) -> dict[str, Any]:
    """The fields of the schema that are about labels."""
    last = spec.model.layers[-1]
    outputs = make_activation(last.activation).output_width(last.units)
    place = _OUTPUT_UNITS.format(len(spec.model.layers) - 1)
    assert read.labels is not None  # noqa: S101 - training rows are read with labels
    if spec.task == "regression":
        columns = read.labels.shape[1]
        if columns != outputs:
            raise SpecError(f"{outputs} outputs, but the data has {columns} targets", place=place)
        return {"kind": "numbers", "targets": _target_names(read, columns)}
    seen = _seen(read)
    if outputs == 1:
        return _two_class(spec, seen)
    if spec.data.positive is not None:
        raise SpecError(
            f"needs one sigmoid output, the network has {outputs}", place="data.positive"
        )
    reject = spec.data.reject.label if spec.data.reject else None
    if reject is not None and reject in seen:
        raise SpecError(f"the data has a class '{reject}' of its own", place="data.reject.label")
    classes = seen if reject is None else (*seen, reject)
    if len(classes) != outputs:
        raise SpecError(
            f"{outputs} outputs, but the data has {len(classes)} classes: {_shown(classes)}",
            place=place,
            hint=f"set it to {len(classes)}",
        )
    kind = "one_hot" if spec.model.divergence == "l2" else "classes"
    return {"kind": kind, "classes": classes, "seen": seen, "reject": reject}


def _target_names(read: RawRows, columns: int) -> tuple[str, ...]:
    if len(read.label) == columns:
        return read.label
    return tuple(f"{read.label[0]}_{i}" for i in range(columns))


def _seen(read: RawRows) -> tuple[Label, ...]:
    assert read.labels is not None  # noqa: S101 - asked of labelled rows only
    seen: tuple[Label, ...] = tuple(sorted(set(read.labels.reshape(-1).tolist())))
    if len(seen) < 2:
        raise DataError(
            f"every row has the label {seen[0]!r}; there is nothing to tell apart",
            file=read.parts[0].file,
            column=read.label[0],
        )
    return seen


def _two_class(spec: JobSpec, seen: tuple[Label, ...]) -> dict[str, Any]:
    """With one output: which label counts as 1, and what to call the other."""
    positive = spec.data.positive
    if positive is None:
        if len(seen) != 2:
            raise SpecError(
                f"one output, but the data has {len(seen)} classes: {_shown(seen)}",
                place="data.positive",
                hint="name the class that counts as 1, or have one softmax output for each",
            )
        return {"kind": "two_class", "classes": seen, "seen": seen, "positive": seen[1]}
    by_text = {str(label): label for label in seen}
    if str(positive) not in by_text:
        raise SpecError(
            f"the data has no class {positive!r}",
            place="data.positive",
            hint=nearest(str(positive), by_text),
        )
    positive = by_text[str(positive)]
    others = [label for label in seen if label != positive]
    negative = others[0] if len(others) == 1 else f"not {positive}"
    classes = (negative, positive)
    return {"kind": "two_class", "classes": classes, "seen": seen, "positive": positive}


def _shown(classes: tuple[Label, ...]) -> str:
    text = ", ".join(map(str, classes[:12]))
    return text if len(classes) <= 12 else f"{text}, …"


def expect_known(read: RawRows, seen: tuple[Label, ...]) -> None:
    """Raise unless training has seen every label.

    Raises:
        DataError: Names file, row and label.
    """
    if not seen or read.labels is None:
        return
    allowed = set(seen)
    known = np.array([label in allowed for label in read.labels.tolist()])
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        label = read.labels[row]
        raise read.error(
            f"the label {str(label)!r} was never seen in training; known: {_shown(seen)}",
            row,
            read.label[0],
        )
