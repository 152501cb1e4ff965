"""What holds for every activation, scalar or vector."""

import numpy as np
import pytest

from sumgrad.model import Activation
from tests.model.cases import ACTIVATION_CASES, WIDTH, smooth_point
from tests.model.oracles import check_contraction, check_into, check_jacobian, check_vjp

each_activation = pytest.mark.parametrize(
    "activation", ACTIVATION_CASES.values(), ids=ACTIVATION_CASES
)


@each_activation
@pytest.mark.parametrize("seed", range(3))
def test_jacobian_and_vjp_are_derivatives(activation: Activation, seed: int) -> None:
    z = smooth_point(seed, (5, WIDTH))
    check_jacobian(activation, z)
    check_vjp(activation, z, seed)
    check_contraction(activation, z, seed)
    check_into(activation, z, seed)
    check_into(activation, z.astype(np.float32), seed)


@each_activation
def test_arguments_are_not_changed(activation: Activation) -> None:
    z = smooth_point(5, (4, WIDTH))
    y = activation.value(z).copy()
    d_y = np.ones_like(y)
    for array in (z, y, d_y):
        array.setflags(write=False)
    activation.value(z)
    activation.vjp(z, y, d_y)
    activation.value_into(z, np.empty_like(y))
    activation.vjp_into(z, y, d_y, np.empty_like(z))
    activation.jacobian(z)
