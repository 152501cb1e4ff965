"""A training job: the spec, the data, and all that training builds from them."""

from dataclasses import dataclass

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.training.driver import TrainingConfig
from sumgrad.jobs.data.prepare import PreparedData
from sumgrad.jobs.runs.build import (
    build_evaluation_plan,
    build_network,
    build_plan,
    build_training_config,
)
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.memory import check_memory_for_network
from sumgrad.jobs.support.text import plural
from sumgrad.model.network import Network


@dataclass(frozen=True)
class TrainingJob:
    """A spec, its data, and what is built from them; no process has been started.

    Attributes:
        spec: With absolute paths.
        data: Prepared for training.
        network: Layers, divergence and dtype.
        plan: Over the training rows.
        training_config: Update, learning rate and stopping.
        workload: What every worker receives.
    """

    spec: JobSpec
    data: PreparedData
    network: Network
    plan: Plan
    training_config: TrainingConfig
    workload: Workload

    @property
    def is_classification(self) -> bool:
        """Whether the model has an accuracy."""
        return self.spec.task == "classification"

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
            lines.append(
                f"a step has {microbatches} microbatches of {self.plan.microbatch_size} rows, so "
                f"{workers - microbatches} of {workers} workers are idle: lower "
                "cluster.microbatch_size to use more"
            )
        return lines


def build_job(spec: JobSpec, data: PreparedData) -> TrainingJob:
    """Build a job from a spec and its data.

    Raises:
        SpecError: The network does not fit into this machine's memory.
    """
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
    return TrainingJob(
        spec, data, network, plan, training_config, Workload(network, sources, plans)
    )
