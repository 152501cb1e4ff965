"""The errors of model/: their tree and attributes, and that both survive pickling."""

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest

import sumgrad.model.errors
from sumgrad.model import ShapeError, SumgradError


def declared() -> Iterator[type[SumgradError]]:
    """Every error class that sumgrad.model.errors declares."""
    for thing in vars(sumgrad.model.errors).values():
        if isinstance(thing, type) and issubclass(thing, SumgradError):
            yield thing


class WithStep(ShapeError):
    """An error with a keyword attribute, as other packages define them."""

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(f"step {step}: {message}", hint="try again")
        self.step = step


class PlainPickling(WithStep):
    """A mutation: pickled like a plain exception, without its attributes."""

    __reduce__ = Exception.__reduce__  # type: ignore[assignment]


def test_the_tree_is_pinned() -> None:
    tree = {kind.__name__: kind.__mro__[1].__name__ for kind in declared()}
    assert tree == {
        "SumgradError": "Exception",
        "ModelError": "SumgradError",
        "ShapeError": "ModelError",
        "OptionError": "ModelError",
    }


@pytest.mark.parametrize("kind", list(declared()))
def test_message_and_hint(kind: type[SumgradError]) -> None:
    assert str(kind("what happened")) == "what happened"
    assert kind("what happened").hint == ""
    assert kind("what happened", hint="do this").hint == "do this"


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
@pytest.mark.parametrize("kind", list(declared()))
def test_it_survives_pickling_and_copying(
    kind: type[SumgradError], again: Callable[[SumgradError], SumgradError]
) -> None:
    error = kind("what happened", hint="do this")
    copied = again(error)
    assert type(copied) is kind
    assert (copied.message, copied.hint, copied.args) == (error.message, error.hint, error.args)
    assert str(copied) == "what happened"


def test_attributes_of_derived_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(WithStep("too wide", step=7)))
    assert type(error) is WithStep
    assert (str(error), error.step, error.hint) == ("step 7: too wide", 7, "try again")


def test_mutation_plain_pickling_loses_attributes() -> None:
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(PlainPickling("too wide", step=7)))


def test_control_characters_in_a_message_become_spaces() -> None:
    error = SumgradError("no class 'a\nb\x1b[2Jü'")
    assert str(error) == "no class 'a b [2Jü'"
