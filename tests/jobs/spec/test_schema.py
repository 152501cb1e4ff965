"""What the schema accepts and refuses; `test_loader` covers where and how it is reported."""

from typing import Any, get_args

import pytest

from sumgrad.cluster.address import check_address
from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.schema import JobSpec, OutOfDistributionKind
from tests.jobs.data.cases import REGRESSION, SIGMOID, job, outputs


def refused(overrides: list[str], example: str = "digits") -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_spec(example, overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("data.features=[a, digit]", "data.features", "'digit' is the label"),
        ("data.features=[a, a]", "data.features", "'a' is named twice"),
        ("data.features=[]", "data.features", "names no column"),
        ("data.label=[]", "data.label", "names no column"),
        ("data.label=[a, a]", "data.label", "'a' is named twice"),
        ("data.label=[a, b]", "data.label", "one label column, not 2"),
        ("data.reject.kinds=[nois]", "data.reject.kinds[0]", "should be one of"),
        ("data.reject.unseen=[seam]", "data.reject.unseen[0]", "should be one of"),
        ("data.reject.kinds=[]", "data.reject.kinds", "at least one item"),
        ("data.reject.kinds=[noise, noise]", "data.reject.kinds", "'noise' is named twice"),
        ("data.reject.unseen=[seams, seams]", "data.reject.unseen", "'seams' is named twice"),
        ("data.reject.unseen=[noise]", "data.reject.unseen", "is also in data.reject.kinds"),
        ("data.reject.ratio=1.0", "data.reject.ratio", "less than 1"),
        ("stop.early_stopping.patience=0", "stop.early_stopping.patience", "greater than 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(override: str, key: str, message: str) -> None:
    error = refused([override])
    assert error.key == f"--set {key}"
    assert message in error.message


def test_many_columns_are_checked_in_linear_time() -> None:
    names = [f"x{i}" for i in range(20_000)]
    with pytest.raises(ValueError, match="'x7' is named twice"):
        job(outputs(2), train="x.csv", features=[*names, "x7"])


@pytest.mark.parametrize("model", [SIGMOID, REGRESSION])
def test_a_reject_class_needs_one_output_per_class(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one output per class"):
        job(model, train="digits", reject={})


def test_several_labels_or_a_single_feature_are_accepted() -> None:
    spec = job(REGRESSION, train="rows.csv", label=["a", "b"], features="c")
    assert (spec.data.label_columns, spec.data.feature_columns) == (("a", "b"), ("c",))
    spec = job(outputs(2), train="rows.csv", reject={})
    assert (spec.data.label_columns, spec.data.feature_columns) == (("label",), None)


def test_the_task_follows_from_the_divergence_unless_it_is_given() -> None:
    assert job(REGRESSION, train="digits").task == "regression"
    assert job(SIGMOID, train="digits").task == "classification"
    assert job(REGRESSION, train="digits", task="classification").task == "classification"


@pytest.mark.parametrize("address", ["inline", "local", "auto", "head:6379", "[::1]:6379"])
def test_cluster_addresses_are_accepted(address: str) -> None:
    spec = load_spec("digits", [f"cluster.address='{address}'"]).spec
    assert spec.cluster.address == address


@pytest.mark.parametrize(
    "address",
    ["", "somewhere", "head:", ":6379", "head:port", "head:²", "ray://head:10001", "Local"],
)
def test_a_malformed_cluster_address_is_refused_as_the_cluster_refuses_it(address: str) -> None:
    error = refused([f"cluster.address='{address}'"])
    with pytest.raises(ClusterUnreachable) as expected:
        check_address(address)
    message = expected.value.message.removeprefix("cluster.address ")
    assert error.message == f"--set cluster.address: {message}"
    assert error.hint == expected.value.hint


def test_sgd_is_stored_as_gradient_descent() -> None:
    # So that runs with either name have the same signature.
    assert load_spec("digits", ["optimizer.name=sgd"]).spec == load_spec("digits").spec


def test_learning_rate_is_accepted_for_eta() -> None:
    assert load_spec("digits", ["optimizer.learning_rate=0.25"]).spec.optimizer.eta == 0.25
    overrides = ["optimizer.learning_rate=0.25", "optimizer.eta=0.5"]
    assert load_spec("digits", overrides).spec.optimizer.eta == 0.5
    assert refused(["optimizer={eta: 0.1, learning_rate: 0.1}"]).key.endswith("learning_rate")
    assert "-1 should be greater than 0" in refused(["optimizer.learning_rate=-1"]).message


def test_every_key_has_a_description() -> None:
    schema = JobSpec.model_json_schema()
    missing = [
        f"{section.get('title')}.{name}"
        for section in [schema, *schema["$defs"].values()]
        for name, key in section.get("properties", {}).items()
        if "description" not in key and "$ref" not in key
    ]
    assert not missing


def test_the_description_of_the_output_names_its_environment_variable() -> None:
    described = JobSpec.model_json_schema()["properties"]["output"]["description"]
    assert "SUMGRAD_OUTPUT" in described


def test_every_kind_of_image_can_be_made() -> None:
    from sumgrad.jobs.data.out_of_distribution import KINDS

    assert sorted(KINDS) == sorted(get_args(OutOfDistributionKind))
