"""A trained model on disk: a folder of two files.

``weights.safetensors`` holds the tensors ``W1, b1, …``; ``model.json`` holds the network, the data
schema, the SHA-256 of the weights and metadata of the run. Nothing is pickled, so loading a model
never runs code from its files. This module needs neither Ray nor PyArrow.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError, ModelNotFound, ModelNotSaved
from sumgrad.jobs.support.files import write_folder
from sumgrad.jobs.support.memory import check_memory_for_file, read_small_file
from sumgrad.model.activations import ACTIVATIONS, make_activation
from sumgrad.model.divergences import DIVERGENCES, resolve_divergence
from sumgrad.model.errors import SumgradError
from sumgrad.model.network import Layer, Network
from sumgrad.model.parameters import Parameters
from sumgrad.model.validation import Array

FORMAT = 2
WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
#: Rows of one forward pass. A fixed number bounds the memory, and a row's bits do not depend on N.
PREDICTION_BATCH_SIZE = 256
#: The size limit of model.json, in bytes: it has a name and two numbers for each feature.
_MAX_DESCRIPTION = 1 << 28
_PARSED_SIZE = 24  #: The memory of model.json as Python objects, as a multiple of its size.
#: Upper bounds of safetensors' header, in bytes: for each tensor, and for the rest.
_TENSOR_HEADER, _HEADER = 256, 4096
#: What interpreting a damaged description can raise.
_DAMAGE = (
    *(AttributeError, LookupError, TypeError, ValueError),
    *(ArithmeticError, RecursionError, SumgradError),
)


@dataclass(frozen=True)
class SavedModel:
    """A trained network, with all that prediction from raw rows needs, and the run's metadata."""

    name: str
    network: Network
    parameters: Parameters
    schema: DataSchema
    metadata: Mapping[str, Any]

    def outputs(self, x: Array) -> Array:
        """Return y_L, (N, D_L), for scaled features x, (N, D_0); ShapeError for another width."""
        y = np.empty((len(x), self.network.outputs), dtype=self.network.dtype)
        for start in range(0, len(x), PREDICTION_BATCH_SIZE):
            rows = slice(start, start + PREDICTION_BATCH_SIZE)
            y[rows] = self.network.predict(self.parameters, x[rows])
        return y

    def predict_columns(self, x: Array) -> dict[str, NDArray[np.generic]]:
        """Return N predictions for scaled features x, (N, D_0), in the schema's columns."""
        return self.schema.columns(self.outputs(x))


def save_model(folder: Path, model: SavedModel) -> None:
    """Write a model atomically; the folder's parents are created, an earlier model is replaced.

    Raises:
        JobError: The folder exists and is not a saved model.
        ModelNotSaved: It could not be written; an earlier model is unchanged.
    """
    if folder.exists() and not (folder / DESCRIPTION).is_file():
        raise JobError(f"{folder} exists and is not a saved model; it is not overwritten")

    def fill(target: Path) -> None:
        write_tensors(target / WEIGHTS, dict(model.parameters.items()))
        text = json.dumps(_description(model), indent=2, ensure_ascii=False)
        (target / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    try:
        write_folder(folder, fill)
    except OSError as error:
        raise ModelNotSaved(
            f"the model could not be saved in {folder}: {error.strerror or error}",
            hint="make space on that disk, then continue with 'sumgrad resume'",
        ) from error


def load_model(folder: Path) -> SavedModel:
    """Read a model; raise ModelNotFound if it is missing, damaged, altered or of another format."""
    description = _read_description(folder)
    try:
        network = _network(description["network"])
        expected = description["weights_sha256"]
        schema = DataSchema.from_json(description["schema"])
        name, run = description["name"], description["metadata"]
    except _DAMAGE as error:
        raise ModelNotFound(f"{folder / DESCRIPTION} is damaged: {error!r}") from error
    if (schema.width, schema.outputs) != (network.inputs, network.outputs):
        raise ModelNotFound(f"{folder / DESCRIPTION} is damaged: schema and network do not match")
    parameters = _read_weights(folder / WEIGHTS, network)
    if parameters.sha256() != expected:
        problem = f"{folder / WEIGHTS} was altered: its SHA-256 is not the one in {DESCRIPTION}"
        raise ModelNotFound(problem)
    return SavedModel(name, network, parameters, schema, run)


def _description(model: SavedModel) -> dict[str, Any]:
    network = model.network
    return {
        "format": FORMAT,
        "name": model.name,
        "sumgrad_version": metadata.version("sumgrad"),
        "network": {
            "inputs": network.inputs,
            "layers": [
                {"units": layer.units, "activation": _config(ACTIVATIONS, layer.activation)}
                for layer in network.layers
            ],
            "divergence": _config(DIVERGENCES, network.divergence)["name"],
            "dtype": network.dtype,
        },
        "schema": model.schema.to_json(),
        "weights_sha256": model.parameters.sha256(),
        "metadata": dict(model.metadata),
    }


def _config(registry: Mapping[str, type[Any]], component: Any) -> dict[str, Any]:
    """Return a registered dataclass as a spec has it: its name and its options."""
    name = next(name for name, kind in registry.items() if kind is type(component))
    return {"name": name} | {
        f.name: getattr(component, f.name) for f in fields(component) if f.init
    }


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not folder.is_dir():
        raise ModelNotFound(f"no saved model at {folder}: the folder does not exist")
    if not path.is_file():
        raise ModelNotFound(f"no saved model at {folder}: it has no {DESCRIPTION}")
    try:
        check_memory_for_file(path, max_bytes=_MAX_DESCRIPTION, times=_PARSED_SIZE)
        description = json.loads(read_small_file(path, _MAX_DESCRIPTION))
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelNotFound(f"{path} is damaged: {error}") from error
    if not isinstance(description, dict) or not isinstance(description.get("format"), int):
        raise ModelNotFound(f"{path} is damaged: it names no format")
    if description["format"] != FORMAT:
        raise ModelNotFound(
            f"{path} has format {description['format']}, this sumgrad reads {FORMAT}",
            hint=f"it was saved by sumgrad {description.get('sumgrad_version')}: use that version",
        )
    return description


def _network(config: Mapping[str, Any]) -> Network:
    layers = tuple(
        Layer(layer["units"], make_activation(layer["activation"])) for layer in config["layers"]
    )
    divergence = resolve_divergence(config["divergence"], layers[-1].activation)
    return Network(config["inputs"], layers, divergence, config["dtype"])


def _read_weights(path: Path, network: Network) -> Parameters:
    """Read the tensors into one flat vector, after checking them against the network."""
    layout = network.layout
    header = _HEADER + _TENSOR_HEADER * len(layout.param_specs)
    max_bytes = layout.size * np.dtype(network.dtype).itemsize + header
    try:
        check_memory_for_file(path, max_bytes=max_bytes)
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path.parent} has no {path.name}") from error
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ModelNotFound(f"{path} is damaged: {error}") from error
    found = {name: f"{tensor.dtype} {tensor.shape}" for name, tensor in tensors.items()}
    expected = {spec.name: f"{network.dtype} {spec.shape}" for spec in layout.param_specs}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            wanted = expected.get(name, "no tensor of that name")
            problem = f"the tensor {name} is {found.get(name, 'missing')}, expected {wanted}"
            raise ModelNotFound(f"{path} does not match {DESCRIPTION}: {problem}")
    parameters = Parameters.zeros(layout, network.dtype)
    for name, view in parameters.items():
        view[...] = tensors[name]
    return parameters


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a ``.safetensors`` file; raise OSError if that fails."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        # safetensors reports a full disk as "... (os error 28)" without an errno.
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
