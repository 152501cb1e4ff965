"""Building a training job, and its parts, from a spec and its data."""

from dataclasses import dataclass
from typing import Any

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan, default_microbatch_size
from sumgrad.cluster.training.driver import TrainingConfig
from sumgrad.cluster.training.stopping import EarlyStopping, StopRule
from sumgrad.jobs.data.prepare import PreparedData
from sumgrad.jobs.spec.schema import JobSpec, ScheduleSpec
from sumgrad.jobs.support.memory import check_memory_for_network
from sumgrad.jobs.support.text import plural
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import resolve_divergence
from sumgrad.model.initializers import initial_parameters, make_initializer
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import make_optimizer
from sumgrad.model.parameters import Parameters
from sumgrad.model.schedules import Constant, Cosine, Schedule, StepDecay, Warmup


@dataclass(frozen=True)
class TrainingJob:
    """A spec with absolute paths, its data, and what is built from them.

    The plan is that of the training rows; the workload is what every worker receives.
    """

    spec: JobSpec
    data: PreparedData
    network: Network
    plan: Plan
    training_config: TrainingConfig
    workload: Workload

    def describe(self, workers: int) -> list[str]:
        """Return lines about the data, the network, the workers, and those that will be idle."""
        widths = [self.network.inputs, *(layer.units for layer in self.network.layers)]
        location = "in this process"
        if self.spec.cluster.address != "inline":
            location = f"on {plural(workers, 'Ray worker')}"
        network = f"network {'-'.join(map(str, widths))} ({self.network.layout.size:,} parameters)"
        lines = [f"{self.spec.name}: {self.plan.num_rows:,} training rows, {network}, {location}"]
        microbatches = self.plan.step(1, 0).num_microbatches
        if microbatches < workers:
            step = f"a step has {microbatches} microbatches of {self.plan.microbatch_size} rows"
            idle = f"{workers - microbatches} of {workers} workers are idle"
            lines.append(f"{step}, so {idle}: lower cluster.microbatch_size to use more")
        return lines


def build_job(spec: JobSpec, data: PreparedData) -> TrainingJob:
    """Build a job; raise SpecError if its network does not fit into this machine's memory."""
    network = build_network(spec, data.schema.width)
    plan = build_plan(spec, data.train.count)
    check_memory_for_network(network, plan.microbatch_size)
    sources = {"train": ArraySource(data.train.x, data.train.d)}
    plans = {"train": plan}
    for split, rows in (("validation", data.validation), ("test", data.test)):
        if rows is not None:
            sources[split] = ArraySource(rows.x, rows.d)
            plans[split] = build_evaluation_plan(spec, rows.count)
    training_config = build_training_config(spec, network, plan.steps_per_epoch)
    workload = Workload(network, sources, plans)
    return TrainingJob(spec, data, network, plan, training_config, workload)


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
    return Plan(rows, batch_size, _microbatch_size(spec, batch_size or rows), spec.seed)


def build_evaluation_plan(spec: JobSpec, rows: int) -> Plan:
    """Return the plan over rows that are only evaluated, all in one step."""
    return Plan(rows, None, _microbatch_size(spec, rows))


def _microbatch_size(spec: JobSpec, step_rows: int) -> int:
    """Return the rows per microbatch. Buffers have this size, which a step may not fill."""
    return min(spec.cluster.microbatch_size or default_microbatch_size(step_rows), step_rows)


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

    schedule: Schedule = Constant()
    if spec.name == "step":
        schedule = StepDecay(step_size=steps(spec.every), decay_rate=spec.factor)
    elif spec.name == "cosine":
        rest = max_epochs - spec.warmup
        schedule = Cosine(steps=steps(spec.epochs or max(rest, 0)), final=spec.final)
    return Warmup(steps(spec.warmup), schedule) if spec.warmup else schedule
