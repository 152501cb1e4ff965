"""Configuration of registered objects: names, options and hints."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest

from sumgrad.model import (
    ACTIVATIONS,
    DIVERGENCES,
    INITIALIZERS,
    OPTIMIZERS,
    SCHEDULES,
    OptionError,
    make_activation,
    make_initializer,
    make_optimizer,
)
from sumgrad.model.activations.scalar import LeakyReLU
from sumgrad.model.registry import from_config

REGISTRIES: dict[str, Mapping[str, type]] = {
    "activation": ACTIVATIONS,
    "divergence": DIVERGENCES,
    "initializer": INITIALIZERS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
NEEDED: dict[str, dict[str, Any]] = {"step": {"step_size": 2}, "cosine": {"steps": 2}}


@dataclass(frozen=True)
class Thing:
    value: Any


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_name_creates_its_class(kind: str) -> None:
    for name, cls in REGISTRIES[kind].items():
        named = {"name": name, **NEEDED.get(name, {})}
        thing: object = from_config(kind, REGISTRIES[kind], named)
        assert type(thing) is cls
        assert hash(thing) == hash(from_config(kind, REGISTRIES[kind], named))


@pytest.mark.parametrize("kind", REGISTRIES)
def test_names_are_lower_case_and_every_class_has_one_name(kind: str) -> None:
    names = list(REGISTRIES[kind])
    assert names == [name.lower().replace("-", "_") for name in names]
    assert len(set(REGISTRIES[kind].values())) == len(names)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_registry_cannot_be_changed(kind: str) -> None:
    with pytest.raises(TypeError):
        REGISTRIES[kind]["new"] = Thing  # type: ignore[index]


def test_registered_objects_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        make_activation("leaky_relu").slope = 2.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "misspelled", "intended"),
    [
        ("activation", "sigmoyd", "sigmoid"),
        ("activation", "leaky-relu", "leaky_relu"),
        ("initializer", "xavier_unifrom", "xavier_uniform"),
        ("optimizer", "gradient_decent", "gradient_descent"),
        ("schedule", "cosin", "cosine"),
    ],
)
def test_a_misspelled_name_gets_a_hint(kind: str, misspelled: str, intended: str) -> None:
    with pytest.raises(OptionError, match=f"unknown {kind} '{misspelled}'") as caught:
        from_config(kind, REGISTRIES[kind], misspelled)
    assert caught.value.hint == f"did you mean '{intended}'?"


def test_a_name_similar_to_none_gets_a_hint_with_all() -> None:
    with pytest.raises(OptionError) as caught:
        make_optimizer("xyz")
    assert caught.value.hint == f"known: {', '.join(sorted(OPTIMIZERS))}"


@pytest.mark.parametrize(
    ("named", "option", "hint"),
    [
        ({"name": "leaky_relu", "slop": 0.1}, "slop", "did you mean 'slope'?"),
        ({"name": "elu", "x": 0.1}, "x", "known: alpha"),
        ({"name": "relu", "slope": 0.1}, "slope", "it takes no options"),
        ({"name": "relu", "initializer": "zeros"}, "initializer", "it takes no options"),
    ],
)
def test_an_unknown_option_gets_a_hint(named: dict[str, Any], option: str, hint: str) -> None:
    with pytest.raises(OptionError, match=f"has no option '{option}'") as caught:
        make_activation(named)
    assert caught.value.hint == hint


@dataclass(frozen=True)
class Listed:
    required: int
    items: list[int] = field(default_factory=list)


def test_only_options_without_a_default_are_required() -> None:
    listed: Listed = from_config("thing", {"listed": Listed}, {"name": "listed", "required": 1})
    assert listed == Listed(1, [])
    with pytest.raises(OptionError, match="thing 'listed' needs the option 'required'"):
        from_config("thing", {"listed": Listed}, "listed")


@pytest.mark.parametrize("named", [{}, {"slope": 0.1}, {"name": None}, {"name": 3}, {"name": []}])
def test_a_mapping_without_a_name_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"^activation has no name") as caught:
        make_activation(named)
    assert "relu" in caught.value.hint


@pytest.mark.parametrize("named", [None, 3, ["relu"], True])
def test_a_value_that_is_no_name_is_refused(named: Any) -> None:
    with pytest.raises(OptionError, match="expected a name"):
        make_initializer(named)


def test_the_mapping_passed_is_not_changed() -> None:
    named = {"name": "leaky_relu", "slope": 0.25}
    assert make_activation(named) == LeakyReLU(0.25)
    assert named == {"name": "leaky_relu", "slope": 0.25}
