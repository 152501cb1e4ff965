"""Activations, divergences and whole networks against PyTorch and its automatic derivatives."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sumgrad.model import Activation, Divergence, Layer, Network, Parameters
from sumgrad.model.activations.scalar import Identity, ReLU, Sigmoid, Tanh
from sumgrad.model.activations.vector import Max, Maxout, Softmax
from sumgrad.model.divergences import L2, MultiClassKL, TwoClassKL
from tests.model.cases import (
    ACTIVATION_CASES,
    WIDTH,
    smooth_point,
    some_network,
    some_parameters,
    some_targets,
)
from tests.model.oracles import Floats, assert_near

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

SCALAR: dict[str, Callable[..., Any]] = {
    "absolute": torch.abs,
    "elu": functional.elu,
    "gelu": lambda z: functional.gelu(z, approximate="tanh"),
    # PyTorch's own hardsigmoid has a derivative of 1/6 rounded to float32, in float64 too.
    "hard_sigmoid": lambda z: functional.relu6(z + 3) / 6,
    "hard_tanh": functional.hardtanh,
    "identity": torch.clone,
    "leaky_relu": lambda z, slope=0.01: functional.leaky_relu(z, slope),
    "log_sigmoid": functional.logsigmoid,
    "mish": functional.mish,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softmax": lambda z: torch.softmax(z, dim=1),
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "tanh": torch.tanh,
}


def name_of(case: str) -> str:
    """The registered name of a case."""
    return case.partition(" ")[0]


def in_torch(case: str, z: "Tensor") -> "Tensor":
    """The activation of a case, applied by PyTorch."""
    activation = ACTIVATION_CASES[case]
    if isinstance(activation, Maxout):
        return z.reshape(len(z), -1, activation.pieces).amax(dim=2)
    if isinstance(activation, Max):
        subsets = activation.subsets or (tuple(range(z.shape[1])),)
        return torch.stack([z[:, list(subset)].amax(dim=1) for subset in subsets], dim=1)
    result: Tensor = SCALAR[name_of(case)](z, **vars(activation))
    return result


def loss_in_torch(divergence: Divergence, z: "Tensor", y: "Tensor", d: "Tensor") -> "Tensor":
    """Σ Div, from the logits where PyTorch has it so."""
    if isinstance(divergence, TwoClassKL):
        crossed = functional.binary_cross_entropy_with_logits(z, d, reduction="sum")
        entropy: Tensor = (torch.special.entr(d) + torch.special.entr(1 - d)).sum()
        return crossed - entropy
    if isinstance(divergence, MultiClassKL):
        return functional.kl_div(torch.log_softmax(z, dim=1), d, reduction="sum")
    return functional.mse_loss(y, d, reduction="sum") / 2


def check_network(
    network: Network, cases: list[str], parameters: Parameters, x: Floats, d: Floats
) -> None:
    """Loss, every gradient and the input gradient equal PyTorch's."""
    weights = [torch.tensor(W, requires_grad=True) for W in parameters.W]
    biases = [torch.tensor(b, requires_grad=True) for b in parameters.b]
    inputs = torch.tensor(x, requires_grad=True)
    y = z = inputs
    for case, W, b in zip(cases, weights, biases, strict=True):
        z = functional.linear(y, W, b)
        y = in_torch(case, z)
    loss = loss_in_torch(network.divergence, z, y, torch.tensor(d))
    expected = torch.autograd.grad(loss, [*weights, *biases, inputs])

    sums = network.gradient_sum(parameters, x, d)
    assert sums.divergence == pytest.approx(loss.item(), rel=1e-10)
    actual = [*sums.gradients.W, *sums.gradients.b, network.input_gradient(parameters, x, d)]
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near(ours, theirs.numpy(), 1e-10)


def test_every_activation_is_compared() -> None:
    vector = {"max", "maxout"}
    assert {name_of(case) for case in ACTIVATION_CASES} == set(SCALAR) | vector


@pytest.mark.parametrize("case", ACTIVATION_CASES)
def test_activation_and_vjp(case: str) -> None:
    activation: Activation = ACTIVATION_CASES[case]
    z = smooth_point(0, (50, WIDTH))
    variable = torch.tensor(z, requires_grad=True)
    theirs = in_torch(case, variable)
    y = activation.value(z)
    assert_near(y, theirs.detach().numpy(), 1e-12)
    d_y = np.random.default_rng(1).standard_normal(y.shape)
    (d_z,) = torch.autograd.grad(theirs, variable, torch.tensor(d_y))
    assert_near(activation.vjp(z, y, d_y), d_z.numpy(), 1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("case", ACTIVATION_CASES)
def test_networks_with_l2(case: str, depth: int) -> None:
    generator = np.random.default_rng(depth)
    cases = [*generator.choice(sorted(ACTIVATION_CASES), depth - 1), case]
    network = some_network([ACTIVATION_CASES[each] for each in cases], L2())
    x = generator.standard_normal((7, network.inputs))
    d = some_targets(network.divergence, (7, network.outputs), depth)
    check_network(network, cases, some_parameters(network, depth), x, d)


@pytest.mark.parametrize(
    ("end", "divergence"), [("sigmoid", TwoClassKL()), ("softmax", MultiClassKL())]
)
@pytest.mark.parametrize("hidden", ACTIVATION_CASES)
def test_networks_with_kl(hidden: str, end: str, divergence: Divergence) -> None:
    for depth in (1, 2, 4):
        cases = [hidden] * (depth - 1) + [end]
        network = some_network([ACTIVATION_CASES[each] for each in cases], divergence)
        x = np.random.default_rng(depth).standard_normal((7, network.inputs))
        d = some_targets(divergence, (7, network.outputs), depth)
        check_network(network, cases, some_parameters(network, depth), x, d)


def test_class_indices_are_cross_entropy() -> None:
    network = some_network([Tanh(), Softmax()], MultiClassKL())
    parameters = some_parameters(network, 0)
    x = np.random.default_rng(0).standard_normal((9, network.inputs))
    classes = np.arange(9) % WIDTH
    logits = torch.tensor(network.forward(parameters, x).z[-1])
    theirs = functional.cross_entropy(logits, torch.tensor(classes), reduction="sum")
    sums = network.gradient_sum(parameters, x, classes)
    assert sums.divergence == pytest.approx(theirs.item(), rel=1e-12)


def test_subgradients_of_relu_agree() -> None:
    zero = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(functional.relu(zero).sum(), zero)
    assert ReLU().derivative(np.zeros((1, 1)), np.zeros((1, 1))).item() == slope.item() == 0


def test_a_wrong_network_is_caught() -> None:
    cases = ["tanh", "sigmoid"]
    network = Network(3, (Layer(2, Tanh()), Layer(2, Sigmoid())), L2(), "float64")
    parameters = some_parameters(network, 0)
    x = np.random.default_rng(0).standard_normal((4, 3))
    d = np.zeros((4, 2))
    check_network(network, cases, parameters, x, d)
    linear = Network(3, (Layer(2, Identity()), Layer(2, Sigmoid())), L2(), "float64")
    with pytest.raises(AssertionError):
        check_network(linear, cases, parameters, x, d)
