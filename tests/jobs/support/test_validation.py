"""Validation errors name the key, what is wrong and the nearest valid key or value."""

from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sumgrad.jobs.support.validation import (
    Problem,
    all_keys,
    dotted,
    first_problem,
    problem_error,
    section_of,
)


class Engine(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    power: Annotated[float, Field(gt=0)] = 1.0
    fuel: Literal["petrol", "diesel"] = "petrol"
    cylinders: Annotated[int, Field(ge=1)] | Literal["many"] = 4

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.power > 100:
            raise problem_error("is too high", "use 100", "power")
        return self


class Car(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    engine: Engine = Engine()
    spare: Engine | None = None
    wheels: list[Engine] = []
    parts: dict[str, Engine] = {}
    age: Annotated[int, Field(ge=0)] = 0


def problem(value: Any, **synonyms: str) -> Problem:
    with pytest.raises(ValidationError) as caught:
        Car.model_validate(value)
    return first_problem(caught.value, Car, value, synonyms)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "name: required, but not given"),
        ({"name": 3}, "name: 3 should be a string"),
        ({"name": None}, "name: nothing should be a string"),
        ({"name": "a", "age": -1}, "age: -1 should be at least 0"),
        ({"name": "a", "age": 1.5}, "age: 1.5 should be an integer"),
        ({"name": "a", "engine": 3}, "engine: 3 should be a mapping of keys to values"),
        ({"name": "a", "engine": {"power": 0.0}}, "engine.power: 0.0 should be greater than 0"),
        ({"name": "a", "engine": {"power": 101.0}}, "engine.power: is too high"),
        ({"name": "a", "spare": {"power": "x"}}, "spare.power: 'x' should be a number"),
        ({"name": "a", "wheels": 1}, "wheels: 1 should be a valid list"),
        ({"name": "a", "wheels": [{}, {"power": 0.0}]}, "wheels[1].power: 0.0 should be"),
        ({"name": "a", "parts": {"x": {"power": 0.0}}}, "parts.x.power: 0.0 should be"),
        ({"name": "a", "parts": 1}, "parts: 1 should be a mapping of keys to values"),
        (
            {"name": "a", "engine": {"cylinders": "four"}},
            "engine.cylinders: 'four' should be an integer or should be 'many'",
        ),
        (
            {"name": "a", "engine": {"fuel": "disel"}},
            "engine.fuel: should be one of 'petrol' or 'diesel', not 'disel'",
        ),
    ],
)
def test_the_problem_is_described_with_its_key(value: Any, expected: str) -> None:
    assert str(problem(value)).startswith(expected)


def test_an_unknown_key_comes_first_and_the_others_are_counted() -> None:
    found = problem({"nam": "a", "age": -1})
    assert (found.path, found.message) == (("nam",), "unknown key (and 2 more)")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({"nam": "a"}, "did you mean 'name'?"),
        ({"engine": {"powr": 1}}, "did you mean 'engine.power'?"),
        ({"wheels": [{"powr": 1}]}, "did you mean 'wheels[0].power'?"),
        ({"fuel": 1}, "did you mean 'engine.fuel'?"),
        ({"engine": {"xyz": 1}}, "known here: power, fuel, cylinders"),
        ({"hp": 1}, "did you mean 'engine.power'?"),
        ({"name": "a", "engine": {"fuel": "disel"}}, "did you mean 'diesel'?"),
        ({"name": "a", "engine": {"fuel": "gas"}}, "did you mean 'petrol'?"),
        ({"name": "a", "engine": {"power": 101.0}}, "use 100"),
    ],
)
def test_the_hint_names_the_nearest_valid_one(value: Any, hint: str) -> None:
    assert problem(value, hp="engine.power", gas="petrol").hint == hint


def test_all_keys_descend_into_sections_and_items() -> None:
    keys = all_keys(Car)
    assert {"name", "engine.power", "spare.fuel", "wheels[].power"} <= set(keys)
    assert section_of(Car.model_fields["spare"].annotation) is Engine
    assert section_of(Car.model_fields["wheels"].annotation) is None


def test_a_path_is_dotted() -> None:
    assert dotted(()) == ""
    assert dotted(("a", 0, "b")) == "a[0].b"
