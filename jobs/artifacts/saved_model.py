"""A trained model on disk: a folder of two files, readable without sumgrad's heavier parts.

``weights.safetensors`` holds the tensors ``W1, b1, …``; ``model.json`` holds what they mean: the
network, the data's schema, the SHA-256 of the weights, and facts about the run. Nothing is
pickled, so loading a model never runs code that it brought along.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError, ModelNotFound
from sumgrad.jobs.support.files import write_folder
from sumgrad.jobs.support.memory import check_memory_for_file, read_small_file
from sumgrad.model.activations import ACTIVATIONS, make_activation
from sumgrad.model.divergences import DIVERGENCES, resolve_divergence
from sumgrad.model.errors import SumgradError
from sumgrad.model.network import Layer, Network
from sumgrad.model.parameters import Parameters
from sumgrad.model.validation import Array

FORMAT = 1
WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
#: Rows of one forward pass: memory stays bounded, and a row's bits do not depend on a caller's N.
PREDICTION_BATCH_SIZE = 256
#: A description longer than this is none of ours: it has a name and two numbers for each feature.
#: As Python's lists of numbers and texts it takes many times as much.
_LONGEST_DESCRIPTION, _AS_OBJECTS = 1 << 28, 24
#: What safetensors writes about a tensor in its header, and about all of them, at most.
_TENSOR_HEADER, _HEADER = 256, 4096
#: What a description that is not ours can lead to.
_DAMAGE = (
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    SumgradError,
)


@dataclass(frozen=True)
class SavedModel:
    """A trained network with everything that is needed to predict from raw rows.

    Args:
        name: The job's name.
        network: Layers, divergence and dtype.
        parameters: The trained W and b.
        schema: What the features and the outputs mean.
        facts: About the training run, free of form: ``run_id``, ``epochs``, ``seed``, ….
    """

    name: str
    network: Network
    parameters: Parameters
    schema: DataSchema
    facts: Mapping[str, Any]

    def outputs(self, x: Array) -> Array:
        """y_L for each row, (N, D_L): x (N, D_0) holds scaled features.

        Raises:
            ShapeError: x has another width.
        """
        y = np.empty((len(x), self.network.outputs), dtype=self.network.dtype)
        for start in range(0, len(x), PREDICTION_BATCH_SIZE):
            rows = slice(start, start + PREDICTION_BATCH_SIZE)
            y[rows] = self.network.predict(self.parameters, x[rows])
        return y

    def predict_columns(self, x: Array) -> dict[str, NDArray[np.generic]]:
        """Named columns of predictions, N long: x (N, D_0) holds scaled features.

        Returns:
            For a classification ``prediction``, the class, and ``probability_<class>`` for each
            class; for a regression one column for each target, a single one being ``prediction``.
        """
        return self.schema.columns(self.outputs(x))


def save_model(folder: Path, model: SavedModel) -> None:
    """Write a model, whole or not at all.

    Args:
        folder: Its parents are made; a model that is there is replaced.
        model: What to write.

    Raises:
        JobError: There is something else at that path.
    """
    if folder.exists() and not (folder / DESCRIPTION).is_file():
        raise JobError(f"{folder} exists and is no saved model; it is not overwritten")

    def fill(place: Path) -> None:
        save_file(dict(model.parameters.items()), place / WEIGHTS)
        text = json.dumps(_description(model), indent=2, ensure_ascii=False)
        (place / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    write_folder(folder, fill)


def load_model(folder: Path) -> SavedModel:
    """Read a model and check that it is the one that was saved.

    Raises:
        ModelNotFound: No such folder, or one that is incomplete, damaged or of a newer format.
    """
    description = _read_description(folder)
    try:
        network = _network(description["network"])
        parameters = _read_weights(folder / WEIGHTS, network)
        expected = description["weights_sha256"]
        schema = DataSchema.from_json(description["schema"])
        name, facts = description["name"], description["facts"]
    except ModelNotFound:
        raise
    except _DAMAGE as error:
        raise ModelNotFound(f"{folder / DESCRIPTION} is damaged: {error!r}") from error
    if (schema.width, schema.outputs) != (network.inputs, network.outputs):
        raise ModelNotFound(f"{folder / DESCRIPTION} is damaged: schema and network do not fit")
    if parameters.sha256() != expected:
        raise ModelNotFound(
            f"{folder / WEIGHTS} was altered: its SHA-256 is not the one in {DESCRIPTION}"
        )
    return SavedModel(name, network, parameters, schema, facts)


def _description(model: SavedModel) -> dict[str, Any]:
    network = model.network
    return {
        "format": FORMAT,
        "name": model.name,
        "sumgrad_version": _sumgrad_version(),
        "network": {
            "inputs": network.inputs,
            "layers": [
                {"units": layer.units, "activation": _named(ACTIVATIONS, layer.activation)}
                for layer in network.layers
            ],
            "divergence": _named(DIVERGENCES, network.divergence)["name"],
            "dtype": network.dtype,
        },
        "schema": model.schema.to_json(),
        "weights_sha256": model.parameters.sha256(),
        "facts": dict(model.facts),
    }


def _named(registry: Mapping[str, type[Any]], thing: Any) -> dict[str, Any]:
    """A registered dataclass as a spec names it: its name and its options."""
    name = next(name for name, kind in registry.items() if kind is type(thing))
    return {"name": name} | {f.name: getattr(thing, f.name) for f in fields(thing) if f.init}


def _sumgrad_version() -> str:
    try:
        return metadata.version("sumgrad")
    except metadata.PackageNotFoundError:
        return "not installed"


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not folder.is_dir():
        raise ModelNotFound(f"no saved model at {folder}: there is no such folder")
    if not path.is_file():
        raise ModelNotFound(f"no saved model at {folder}: it has no {DESCRIPTION}")
    try:
        check_memory_for_file(path, max_bytes=_LONGEST_DESCRIPTION, times=_AS_OBJECTS)
        description = json.loads(read_small_file(path, _LONGEST_DESCRIPTION))
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelNotFound(f"{path} is damaged: {error}") from error
    if not isinstance(description, dict) or not isinstance(description.get("format"), int):
        raise ModelNotFound(f"{path} is damaged: it names no format")
    if description["format"] > FORMAT:
        raise ModelNotFound(
            f"{path} has format {description['format']}, this sumgrad reads up to {FORMAT}",
            hint=f"it was saved by sumgrad {description.get('sumgrad_version')}; upgrade",
        )
    return description


def _network(facts: Mapping[str, Any]) -> Network:
    layers = tuple(
        Layer(layer["units"], make_activation(layer["activation"])) for layer in facts["layers"]
    )
    divergence = resolve_divergence(facts["divergence"], layers[-1].activation)
    return Network(facts["inputs"], layers, divergence, facts["dtype"])


def _read_weights(path: Path, network: Network) -> Parameters:
    """The tensors, checked against the network, as one flat vector."""
    layout = network.layout
    header = _HEADER + _TENSOR_HEADER * len(layout.param_specs)
    at_most = layout.size * np.dtype(network.dtype).itemsize + header
    try:
        check_memory_for_file(path, max_bytes=at_most)
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path.parent} has no {path.name}") from error
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ModelNotFound(f"{path} is damaged: {error}") from error
    for problem in _misfits(tensors, network):
        raise ModelNotFound(f"{path} does not fit {DESCRIPTION}: {problem}")
    parameters = Parameters.zeros(network.layout, network.dtype)
    for name, view in parameters.items():
        view[...] = tensors[name]
    return parameters


def _misfits(tensors: Mapping[str, Array], network: Network) -> Iterator[str]:
    """What keeps the tensors from being the network's, a line each."""
    slots = {slot.name: slot for slot in network.layout.param_specs}
    for name in slots.keys() - tensors.keys():
        yield f"the tensor {name} is missing"
    for name in tensors.keys() - slots.keys():
        yield f"the network has no tensor {name}"
    for name, slot in slots.items():
        found = tensors[name]
        if found.shape != slot.shape or found.dtype != np.dtype(network.dtype):
            yield (f"{name} is {found.dtype} {found.shape}, expected {network.dtype} {slot.shape}")
