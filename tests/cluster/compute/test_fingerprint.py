"""A mixture of arithmetic is refused, and the BLAS is pinned."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from sumgrad.cluster.compute import fingerprint
from sumgrad.cluster.compute.fingerprint import check_same_fingerprint, compute_fingerprint
from sumgrad.cluster.errors import FingerprintMismatch


def test_the_same_process_gives_the_same_fingerprint() -> None:
    ours = compute_fingerprint()
    check_same_fingerprint(ours, compute_fingerprint(), worker=0)
    assert "openblas" in ours.blas
    assert "threads=1" in ours.blas


def test_taking_it_pins_the_blas_to_one_thread() -> None:
    ThreadpoolController().limit(limits=2, user_api="blas")
    compute_fingerprint()
    pools = ThreadpoolController().select(user_api="blas").info()
    assert [pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]] == [1]


@pytest.mark.parametrize("field", ["machine", "numpy", "blas", "canary"])
def test_any_difference_is_refused_and_named(field: str) -> None:
    ours = compute_fingerprint()
    with pytest.raises(FingerprintMismatch, match=rf"worker 3's {field} is other"):
        check_same_fingerprint(ours, replace(ours, **{field: "other"}), worker=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "sqrt", "tanh"])
def test_a_function_that_rounds_otherwise_once_is_noticed(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of another C library do."""
    right: Callable[[np.ndarray], np.ndarray] = getattr(np, name)

    def otherwise(x: np.ndarray) -> np.ndarray:
        y = right(x)
        if x.dtype == dtype:
            y.flat[y.size // 3] = np.nextafter(y.flat[y.size // 3], np.inf, dtype=dtype)
        return y

    before = fingerprint._canary()
    monkeypatch.setattr(np, name, otherwise)
    assert fingerprint._canary() != before
