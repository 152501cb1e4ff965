"""The public API of model/, pinned, and the cost of importing it."""

import subprocess
import sys

import sumgrad.model

PUBLIC = {
    "ACTIVATIONS",
    "DIVERGENCES",
    "INITIALIZERS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Activation",
    "Cache",
    "Divergence",
    "EvaluationSum",
    "GradientCheck",
    "GradientSum",
    "Initializer",
    "Layer",
    "Layout",
    "ModelError",
    "Network",
    "OptionError",
    "Optimizer",
    "Parameters",
    "ScalarActivation",
    "Schedule",
    "ShapeError",
    "SumgradError",
    "check_gradients",
    "initial_parameters",
    "make_activation",
    "make_initializer",
    "make_optimizer",
    "resolve_divergence",
    "weights_sha256",
}


def test_all_is_pinned() -> None:
    assert set(sumgrad.model.__all__) == PUBLIC
    assert len(sumgrad.model.__all__) == len(PUBLIC)


def test_every_public_name_exists_and_is_documented() -> None:
    for name in PUBLIC:
        thing = getattr(sumgrad.model, name)
        assert not callable(thing) or (thing.__doc__ or "").strip(), name


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = "{'ray', 'mlflow', 'pyarrow', 'torch', 'scipy', 'sklearn', 'pandas'}"
    program = f"import sys, sumgrad.model; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"
