"""A job's parts put together: everything that training needs, but no process started yet."""

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
from sumgrad.model.network import Network


@dataclass(frozen=True)
class TrainingJob:
    """A spec, its data, and what they make.

    Attributes:
        spec: With absolute paths.
        data: Ready for training.
        network: Layers, divergence and dtype.
        plan: Over the training rows.
        training_config: Update, learning rate and stopping.
        workload: What every worker is given.
    """

    spec: JobSpec
    data: PreparedData
    network: Network
    plan: Plan
    training_config: TrainingConfig
    workload: Workload

    @property
    def is_classification(self) -> bool:
        """Whether accuracy means anything."""
        return self.spec.task == "classification"

    def describe(self, workers: int) -> list[str]:
        """Before the first epoch: what is trained, on what, where, and with idle hands or not."""
        widths = [self.network.inputs, *(layer.units for layer in self.network.layers)]
        place = "in this process"
        if self.spec.cluster.address != "inline":
            place = f"on {workers} Ray worker{'s' if workers > 1 else ''}"
        network = f"network {'-'.join(map(str, widths))} ({self.network.layout.size:,} parameters)"
        lines = [f"{self.spec.name}: {self.plan.num_rows:,} training rows, {network}, {place}"]
        shards = self.plan.step(1, 0).num_microbatches
        if shards < workers:
            lines.append(
                f"a step has {shards} microbatch{'s' if shards > 1 else ''} of "
                f"{self.plan.microbatch_size} rows, so {workers - shards} of {workers} workers "
                "have nothing to do; a smaller cluster.microbatch_size gives work to more"
            )
        return lines


def build_job(spec: JobSpec, data: PreparedData) -> TrainingJob:
    """Put a spec and its data together.

    Raises:
        SpecError: The network does not fit into this machine's memory.
    """
    network = build_network(spec, data.schema.width)
    plan = build_plan(spec, data.train.count)
    check_memory_for_network(network, plan.microbatch_size)
    sources = {"train": ArraySource(data.train.x, data.train.d)}
    plans = {"train": plan}
    for role, rows in (("validation", data.validation), ("test", data.test)):
        if rows is not None:
            sources[role] = ArraySource(rows.x, rows.d)
            plans[role] = build_evaluation_plan(spec, rows.count)
    training_config = build_training_config(spec, network, plan.steps_per_epoch)
    return TrainingJob(
        spec, data, network, plan, training_config, Workload(network, sources, plans)
    )
