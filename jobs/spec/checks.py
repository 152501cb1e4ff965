"""What can be wrong with a spec's data section before a single row is read."""

from collections import Counter

from sumgrad.jobs.data.out_of_distribution import check_kinds
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.model.activations import make_activation


def spec_features(spec: JobSpec) -> tuple[str, ...] | None:
    """The feature columns that a spec names."""
    features = spec.data.features
    return (features,) if isinstance(features, str) else features


def spec_label(spec: JobSpec) -> tuple[str, ...]:
    """The label columns that a spec names."""
    return (spec.data.label,) if isinstance(spec.data.label, str) else spec.data.label


def spec_outputs(spec: JobSpec) -> int:
    """How many outputs a spec's network has."""
    last = spec.model.layers[-1]
    return make_activation(last.activation).output_width(last.units)


def check_record(spec: JobSpec) -> None:
    """Raise unless the data section makes sense in itself and for the task.

    Raises:
        SpecError: Names the key.
    """
    _expect_columns(spec)
    _expect_reject(spec)


def _expect_columns(spec: JobSpec) -> None:
    label = spec_label(spec)
    if not label:
        raise SpecError("names no column", key="data.label")
    _expect_once(label, "data.label")
    if len(label) > 1 and spec.task == "classification":
        raise SpecError(
            f"a classification has one label column, not {len(label)}",
            key="data.label",
            hint="for a regression set model.divergence to l2",
        )
    features = spec_features(spec)
    if features is None:
        return
    if not features:
        raise SpecError("names no column", key="data.features")
    _expect_once(features, "data.features")
    for name in features:
        if name in label:
            raise SpecError(f"'{name}' is the label", key="data.features")


def _expect_reject(spec: JobSpec) -> None:
    reject = spec.data.reject
    if reject is None:
        return
    if spec.task == "regression" or spec_outputs(spec) == 1:
        raise SpecError(
            "a reject class needs a classification with one output for each class",
            key="data.reject",
        )
    if not reject.kinds:
        raise SpecError("names no kind of non-digits to train with", key="data.reject.kinds")
    check_kinds(reject.kinds, "data.reject.kinds")
    check_kinds(reject.unseen, "data.reject.unseen")
    _expect_once(reject.kinds, "data.reject.kinds")
    _expect_once(reject.unseen, "data.reject.unseen")
    for kind in reject.unseen:
        if kind in reject.kinds:
            raise SpecError(f"'{kind}' is trained with", key="data.reject.unseen")


def _expect_once(names: tuple[str, ...], place: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise SpecError(f"'{name}' is named twice", key=place)
