"""The parts that a spec asks for are the ones that it gets."""

from typing import Any

import pytest

from sumgrad.cluster.training.stopping import EarlyStopping
from sumgrad.jobs.runs.build import (
    build_evaluation_plan,
    build_initial_parameters,
    build_network,
    build_plan,
    build_schedule,
    build_training_config,
)
from sumgrad.jobs.spec.schema import JobSpec, ScheduleSpec
from sumgrad.model.activations.scalar import LeakyReLU
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.optimizers import Adam
from sumgrad.model.schedules import Constant, Cosine, StepDecay, Warmup


def make_spec(**sections: Any) -> JobSpec:
    values: dict[str, Any] = {
        "name": "job",
        "data": {"train": "rows.csv"},
        "model": {
            "layers": [
                {"units": 5, "activation": {"name": "leaky_relu", "slope": 0.2}},
                {"units": 3, "activation": "softmax", "initializer": "zeros"},
            ]
        },
    }
    return JobSpec.model_validate(values | sections)


def test_the_network_has_the_layers_and_divergence_of_the_spec() -> None:
    network = build_network(make_spec(), 7)
    assert network.layout.widths == ((7, 5), (5, 3))
    assert network.layers[0].activation == LeakyReLU(slope=0.2)
    assert network.divergence == MultiClassKL()
    assert network.dtype == "float32"


def test_initial_weights_follow_initializer_and_seed() -> None:
    network = build_network(make_spec(), 7)
    first = build_initial_parameters(make_spec(seed=1), network)
    assert not first["W2"].any()
    assert first["W1"].any()
    assert first.sha256() == build_initial_parameters(make_spec(seed=1), network).sha256()
    assert first.sha256() != build_initial_parameters(make_spec(seed=2), network).sha256()


@pytest.mark.parametrize(
    ("size", "expected"), [(10, 10), ("full", None), (100, None), (101, None), (99, 99)]
)
def test_a_batch_of_all_rows_or_more_is_a_full_batch(size: Any, expected: int | None) -> None:
    plan = build_plan(make_spec(optimizer={"batch_size": size}, seed=4), 100)
    assert plan.batch_size == expected
    assert (plan.num_rows, plan.seed) == (100, 4)


@pytest.mark.parametrize(("size", "expected"), [(64, 32), (90, 45), ("full", 50)])
def test_the_default_microbatch_is_half_a_step(size: Any, expected: int) -> None:
    spec = make_spec(optimizer={"batch_size": size})
    assert build_plan(spec, 100).microbatch_size == expected
    assert build_evaluation_plan(spec, 2000).microbatch_size == 256
    given = make_spec(optimizer={"batch_size": size}, cluster={"microbatch_size": 7})
    assert (
        build_plan(given, 100).microbatch_size
        == build_evaluation_plan(given, 2000).microbatch_size
        == 7
    )


def test_a_microbatch_has_at_most_the_rows_of_a_step() -> None:
    spec = make_spec(optimizer={"batch_size": 40}, cluster={"microbatch_size": 10**9})
    assert build_plan(spec, 100).microbatch_size == 40
    assert build_plan(spec, 30).microbatch_size == 30
    assert build_evaluation_plan(spec, 2000).microbatch_size == 2000


def test_the_training_config_has_the_optimizers_options() -> None:
    spec = make_spec(
        optimizer={"name": "adam", "eta": 0.01, "beta1": 0.8, "weight_decay": 0.1},
        data={"train": "rows.csv", "validation": 0.1},
        stop={"max_epochs": 7, "early_stopping": {"patience": 2}},
    )
    training_config = build_training_config(spec, build_network(spec, 7), 5)
    assert training_config.optimizer == Adam(beta1=0.8, weight_decay=0.1)
    assert training_config.eta == 0.01
    assert training_config.stop.max_epochs == 7
    assert training_config.stop.early_stopping == EarlyStopping(2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Constant()),
        ({"name": "step", "every": 2.5, "factor": 0.1}, StepDecay(step_size=10, decay_rate=0.1)),
        ({"name": "cosine"}, Cosine(steps=40)),
        ({"name": "cosine", "epochs": 3.0, "final": 0.5}, Cosine(steps=12, final=0.5)),
        ({"name": "cosine", "warmup": 2.0}, Warmup(8, Cosine(steps=32))),
        ({"warmup": 0.1}, Warmup(1, Constant())),
    ],
)
def test_schedules_are_given_in_epochs_and_run_in_steps(
    given: dict[str, Any], expected: object
) -> None:
    schedule = build_schedule(ScheduleSpec.model_validate(given), max_epochs=10, steps_per_epoch=4)
    assert schedule == expected


@pytest.mark.parametrize(
    ("divergence", "task", "expected"),
    [
        ("kl", None, "classification"),
        ("l2", None, "regression"),
        ("l2", "classification", "classification"),
    ],
)
def test_the_divergence_determines_the_task(
    divergence: str, task: str | None, expected: str
) -> None:
    layers = [{"units": 3, "activation": "softmax"}]
    spec = make_spec(
        model={"layers": layers, "divergence": divergence},
        data={"train": "rows.csv", "task": task},
    )
    assert spec.task == expected
