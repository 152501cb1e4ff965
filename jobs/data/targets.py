"""What a job's labels become: classes, one of two, one-hot, or numbers."""

from typing import Any

from sumgrad.jobs.data.compatibility import shown
from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.schema import DataSchema, Label
from sumgrad.jobs.errors import DataError, SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.model.activations import make_activation
from sumgrad.model.validation import did_you_mean


def infer_schema(spec: JobSpec, read: RawDataset) -> DataSchema:
    """What the training rows mean for this job's network; their scaling is not fitted yet.

    Raises:
        DataError: There is nothing to tell apart.
        SpecError: The labels and the output layer do not fit each other.
    """
    facts = _regression(spec, read) if spec.task == "regression" else _classes(spec, read)
    return DataSchema(
        features=read.features,
        list_column=read.list_column,
        image_shape=read.image_shape,
        label=read.label,
        **facts,
    )


def _regression(spec: JobSpec, read: RawDataset) -> dict[str, Any]:
    columns = read.targets.shape[1]
    if columns != spec.model.outputs:
        raise _outputs_error(spec, columns, f"{columns} target{'s' if columns > 1 else ''}")
    one_each = len(read.label) == columns
    names = read.label if one_each else tuple(f"{read.label[0]}_{i}" for i in range(columns))
    return {"kind": "numbers", "targets": names}


def _classes(spec: JobSpec, read: RawDataset) -> dict[str, Any]:
    seen = _seen(read)
    if spec.model.outputs == 1:
        return _two_class(spec, seen)
    if spec.data.positive is not None:
        raise SpecError(
            f"needs one sigmoid output, the network has {spec.model.outputs}",
            key="data.positive",
        )
    classes, reject = seen, spec.data.reject.label if spec.data.reject else None
    if reject is not None:
        if reject in map(str, seen):
            raise SpecError(f"the data has a class '{reject}' of its own", key="data.reject.label")
        classes = (*seen, reject)
    if len(classes) != spec.model.outputs:
        raise _outputs_error(spec, len(classes), f"{len(classes)} classes: {shown(classes)}")
    kind = "one_hot" if spec.model.divergence == "l2" else "classes"
    return {"kind": kind, "classes": classes, "seen": seen, "reject": reject}


def _outputs_error(spec: JobSpec, needed: int, data: str) -> SpecError:
    """The output layer does not fit; with ``max`` the outputs are not as many as the units."""
    last, outputs = spec.model.layers[-1], spec.model.outputs
    units_help = make_activation(last.activation).output_width(needed) == needed
    return SpecError(
        f"{outputs} output{'s' if outputs > 1 else ''}, but the data has {data}",
        key=f"model.layers[{len(spec.model.layers) - 1}].units",
        hint=f"set it to {needed}" if units_help else f"its activation must give {needed} outputs",
    )


def _seen(read: RawDataset) -> tuple[Label, ...]:
    """The classes, numbers by size and texts by their letters."""
    seen: tuple[Label, ...] = tuple(sorted(set(read.targets.tolist())))
    if len(seen) < 2:
        raise DataError(
            f"every row has the label {seen[0]!r}; there is nothing to tell apart",
            file=read.file,
            column=read.label[0],
        )
    return seen


def _two_class(spec: JobSpec, seen: tuple[Label, ...]) -> dict[str, Any]:
    """With one output: which label counts as 1, and what to call the other."""
    positive = spec.data.positive
    if positive is None:
        if len(seen) != 2:
            raise SpecError(
                f"one output, but the data has {len(seen)} classes: {shown(seen)}",
                key="data.positive",
                hint="name the class that counts as 1, or have one softmax output for each",
            )
        return {"kind": "two_class", "classes": seen, "seen": seen, "positive": seen[1]}
    by_text = {str(label): label for label in seen}
    if str(positive) not in by_text:
        raise SpecError(
            f"the data has no class {positive!r}",
            key="data.positive",
            hint=did_you_mean(str(positive), by_text),
        )
    positive = by_text[str(positive)]
    others = [label for label in seen if label != positive]
    negative = others[0] if len(others) == 1 else f"not {positive}"
    classes = (negative, positive)
    return {"kind": "two_class", "classes": classes, "seen": seen, "positive": positive}
