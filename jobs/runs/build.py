"""Build the network, the plans and the training configuration of a spec."""

from typing import Any

from sumgrad.cluster.planning.plan import Plan, default_microbatch_size
from sumgrad.cluster.training.driver import TrainingConfig
from sumgrad.cluster.training.stopping import EarlyStopping, StopRule
from sumgrad.jobs.spec.schema import JobSpec, ScheduleSpec
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import resolve_divergence
from sumgrad.model.initializers import initial_parameters, make_initializer
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import make_optimizer
from sumgrad.model.parameters import Parameters
from sumgrad.model.schedules import Constant, Cosine, Schedule, StepDecay, Warmup


def build_network(spec: JobSpec, inputs: int) -> Network:
    """Return the network for rows of this number of features."""
    layers = tuple(
        Layer(layer.units, make_activation(layer.activation)) for layer in spec.model.layers
    )
    divergence = resolve_divergence(spec.model.divergence, layers[-1].activation)
    return Network(inputs, layers, divergence, spec.model.dtype)


def build_initial_parameters(spec: JobSpec, network: Network) -> Parameters:
    """Return the initial weights."""
    chosen = [
        make_initializer(layer.initializer) if layer.initializer is not None else None
        for layer in spec.model.layers
    ]
    return initial_parameters(network, chosen, seed=spec.seed)


def build_plan(spec: JobSpec, rows: int) -> Plan:
    """Return the plan over the training rows."""
    size: Any = spec.optimizer.batch_size
    batch_size = None if size == "full" or size >= rows else size
    step_rows = batch_size or rows
    # Buffers are allocated for this size, which a step may not fill.
    microbatch_size = min(
        spec.cluster.microbatch_size or default_microbatch_size(step_rows), step_rows
    )
    return Plan(rows, batch_size, microbatch_size, spec.seed)


def build_evaluation_plan(spec: JobSpec, rows: int) -> Plan:
    """Return the plan over rows that are only evaluated, all in one step."""
    microbatch_size = spec.cluster.microbatch_size or default_microbatch_size(rows)
    return Plan(rows, None, min(microbatch_size, rows))


def build_training_config(spec: JobSpec, network: Network, steps_per_epoch: int) -> TrainingConfig:
    """Return optimizer, learning rate and stop rule."""
    early = spec.stop.early_stopping
    return TrainingConfig(
        network=network,
        optimizer=make_optimizer(spec.optimizer.name, **spec.optimizer.options),
        eta=spec.optimizer.eta,
        schedule=build_schedule(spec.optimizer.schedule, spec.stop.max_epochs, steps_per_epoch),
        stop=StopRule(
            max_epochs=spec.stop.max_epochs,
            tolerance=spec.stop.tolerance,
            patience=spec.stop.patience,
            early_stopping=EarlyStopping(early.patience, early.min_delta) if early else None,
        ),
    )


def build_schedule(spec: ScheduleSpec, max_epochs: int, steps_per_epoch: int) -> Schedule:
    """Return the schedule in steps; the spec's times are in epochs."""

    def steps(epochs: float) -> int:
        return max(1, round(epochs * steps_per_epoch))

    schedule: Schedule
    if spec.name == "step":
        schedule = StepDecay(step_size=steps(spec.every), decay_rate=spec.factor)
    elif spec.name == "cosine":
        rest = max_epochs - spec.warmup
        schedule = Cosine(steps=steps(spec.epochs or max(rest, 0)), final=spec.final)
    else:
        schedule = Constant()
    return Warmup(steps(spec.warmup), schedule) if spec.warmup else schedule
