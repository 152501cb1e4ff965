"""Choose the targets of a job from its labels: classes, two classes, one-hot, or numbers."""

from typing import Any

from sumgrad.jobs.data.compatibility import format_classes
from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.schema import DataSchema, Label
from sumgrad.jobs.errors import DataError, SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.text import plural
from sumgrad.model.activations import make_activation
from sumgrad.model.validation import did_you_mean


def infer_schema(spec: JobSpec, train: RawDataset) -> DataSchema:
    """Return the schema of the training rows, without a fitted scaling.

    Raises:
        DataError: All rows have the same label.
        SpecError: The labels and the output layer do not fit together.
    """
    targets = _regression(spec, train) if spec.task == "regression" else _classes(spec, train)
    return DataSchema(
        features=train.features,
        list_column=train.list_column,
        image_shape=train.image_shape,
        label=train.label,
        **targets,
    )


def _regression(spec: JobSpec, train: RawDataset) -> dict[str, Any]:
    columns = train.targets.shape[1]
    if columns != spec.model.outputs:
        raise _outputs_error(spec, columns, plural(columns, "target"))
    has_one_each = len(train.label) == columns
    names = train.label if has_one_each else tuple(f"{train.label[0]}_{i}" for i in range(columns))
    return {"kind": "numbers", "targets": names}


def _classes(spec: JobSpec, train: RawDataset) -> dict[str, Any]:
    # Numbers are sorted by value, strings by their characters.
    seen: tuple[Label, ...] = tuple(sorted(set(train.targets.tolist())))
    if len(seen) < 2:
        problem = f"every row has the label {seen[0]!r}; a classification needs two classes"
        raise DataError(problem, file=train.file, column=train.label[0])
    if spec.model.outputs == 1:
        return {"kind": "two_class", "seen": seen, **_two_class(spec.data.positive, seen)}
    if spec.data.positive is not None:
        problem = f"needs one sigmoid output, the network has {spec.model.outputs}"
        raise SpecError(problem, key="data.positive")
    classes, reject = seen, spec.data.reject.label if spec.data.reject else None
    if reject is not None:
        if reject in map(str, seen):
            raise SpecError(f"the data has a class '{reject}' already", key="data.reject.label")
        classes = (*seen, reject)
    if len(classes) != spec.model.outputs:
        described = f"{len(classes)} classes: {format_classes(classes)}"
        raise _outputs_error(spec, len(classes), described)
    kind = "one_hot" if spec.model.divergence == "l2" else "classes"
    return {"kind": kind, "classes": classes, "seen": seen, "reject": reject}


def _two_class(positive: Label | None, seen: tuple[Label, ...]) -> dict[str, Any]:
    """Return the negative and the positive class, whose targets are 0 and 1."""
    if positive is None:
        if len(seen) != 2:
            raise SpecError(
                f"one output, but the data has {len(seen)} classes: {format_classes(seen)}",
                key="data.positive",
                hint="name the class with target 1, or use one softmax output per class",
            )
        positive = seen[1]
    by_text = {str(label): label for label in seen}
    if str(positive) not in by_text:
        hint = did_you_mean(str(positive), by_text)
        raise SpecError(f"the data has no class {positive!r}", key="data.positive", hint=hint)
    positive = by_text[str(positive)]
    others = [label for label in seen if label != positive]
    negative = others[0] if len(others) == 1 else f"not {positive}"
    return {"classes": (negative, positive), "positive": positive}


def _outputs_error(spec: JobSpec, needed: int, data: str) -> SpecError:
    """Return the error for an output layer whose number of outputs does not fit the data."""
    # With `max` the number of outputs is not the number of units.
    activation = make_activation(spec.model.layers[-1].activation)
    hint = f"its activation must give {needed} outputs"
    if activation.output_width(needed) == needed:
        hint = f"set it to {needed}"
    problem = f"{plural(spec.model.outputs, 'output')}, but the data has {data}"
    return SpecError(problem, key=f"model.layers[{len(spec.model.layers) - 1}].units", hint=hint)
