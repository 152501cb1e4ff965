"""Scaling, and a schema that survives JSON."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sumgrad.jobs.data.schema import DataSchema, Scaling

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)
matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.floats(-1e6, 1e6),
)


@SETTINGS
@given(matrices, st.booleans())
def test_minmax_maps_training_rows_to_0_to_1(x: NDArray[np.float64], shared: bool) -> None:
    scaled = Scaling.fit("minmax", x, shared=shared).apply(x, np.float64)
    assert scaled.min() >= 0
    assert scaled.max() <= 1 + 1e-12


@SETTINGS
@given(matrices, st.sampled_from(["minmax", "standard", "none"]), st.booleans())
def test_a_scaling_survives_json(x: NDArray[np.float64], kind: str, shared: bool) -> None:
    names = tuple(f"x{i}" for i in range(x.shape[1]))
    schema = DataSchema(names, classes=(0, 1), scaling=Scaling.fit(kind, x, shared=shared))
    assert DataSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize(
    ("kind", "oracle"), [("minmax", MinMaxScaler), ("standard", StandardScaler)]
)
def test_columns_are_scaled_as_scikit_learn_does(kind: str, oracle: Any) -> None:
    # More rows than a block, so blocks are combined.
    x = np.random.default_rng(0).normal(3, [1, 10, 100], size=(9001, 3))
    scaled = Scaling.fit(kind, x, shared=False).apply(x, np.float64)
    np.testing.assert_allclose(scaled, oracle().fit_transform(x), atol=1e-12)


@pytest.mark.parametrize("kind", ["minmax", "standard"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, 1e100, -7.7])
def test_a_constant_feature_becomes_0_for_any_value(kind: str, value: float) -> None:
    # 0.1 seven times has a mean that is not 0.1.
    scaling = Scaling.fit(kind, np.full((7, 1), value), shared=False)
    assert scaling.factor == (0.0,)
    assert not scaling.apply(np.array([[value], [5.0], [-1e9]]), np.float32).any()


def test_a_spread_too_small_to_divide_by_counts_as_constant() -> None:
    x = np.array([[0.0], [5e-324]])
    assert Scaling.fit("minmax", x, shared=False).factor == (0.0,)


def test_pixels_share_one_range() -> None:
    scaling = Scaling.fit("minmax", np.array([[0, 8], [4, 16]], dtype=np.uint8), shared=True)
    assert (scaling.offset, scaling.factor) == ((0.0,), (1 / 16,))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_rows_are_row_major_and_of_the_dtype(dtype: type[np.floating]) -> None:
    x = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    scaled = Scaling().apply(x, dtype)
    assert scaled.dtype == dtype
    assert scaled.flags.c_contiguous
    np.testing.assert_array_equal(scaled, x)


@pytest.mark.parametrize("classes", [(2, 10, 30), ("10", "2", "x")])
def test_a_schema_keeps_numbers_and_texts_apart(classes: tuple[int | str, ...]) -> None:
    schema = DataSchema(("a", "b"), classes=classes, seen=classes, image_shape=(1, 2))
    again = DataSchema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    assert [type(label) for label in again.classes or ()] == [type(label) for label in classes]


@pytest.mark.parametrize("schema", [{}, {"features": ["a"]}, {"scaling": {}, "q": 1}])
def test_an_invalid_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        DataSchema.from_json(schema)


def test_targets_of_every_kind() -> None:
    labels = np.array([30, 10, 30])
    classes = DataSchema(("a",), classes=(10, 30))
    assert classes.encode(labels, np.float32).tolist() == [1, 0, 1]
    assert classes.encode(labels, np.float32).dtype == np.int64
    one_hot = DataSchema(("a",), classes=(10, 30), kind="one_hot")
    assert one_hot.encode(labels, np.float32).tolist() == [[0, 1], [1, 0], [0, 1]]
    two = DataSchema(("a",), classes=("not 10", 10), kind="two_class", positive=10)
    assert two.encode(labels, np.float64).tolist() == [[0], [1], [0]]
    numbers = DataSchema(("a",), targets=("t",), kind="numbers")
    assert numbers.encode(np.array([[1.5]]), np.float32).tolist() == [[1.5]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", []),
        ("features", [1]),
        ("targets", ["t"]),
        ("classes", None),
        ("classes", [1.5]),
        ("label", []),
        ("kind", "other"),
        ("seen", [None]),
        ("positive", 1.5),
        ("reject", 1),
        ("image_shape", [1]),
        ("image_shape", ["a", "b"]),
        ("image_shape", [1, 2, 3]),
        ("scaling", {"kind": "unit", "offset": [0.0], "factor": [1.0]}),
        ("scaling", {"kind": "minmax", "offset": [0.0], "factor": [1.0, 1.0]}),
        ("scaling", {"kind": "minmax", "offset": [0.0] * 3, "factor": [1.0] * 3}),
        ("scaling", {"kind": "minmax", "offset": [0], "factor": [1.0]}),
    ],
)
def test_an_invalid_field_of_a_schema_is_named(field: str, value: object) -> None:
    valid = DataSchema(("a", "b"), classes=(0, 1), seen=(0, 1)).to_json()
    DataSchema.from_json(json.loads(json.dumps(valid)))
    with pytest.raises(ValueError, match=f"its field '{field}' is invalid"):
        DataSchema.from_json(valid | {field: value})
