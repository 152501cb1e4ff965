"""Different arithmetic is refused, and BLAS is limited to one thread."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from sumgrad.cluster.compute import fingerprint
from sumgrad.cluster.compute.fingerprint import check_same_fingerprint, compute_fingerprint
from sumgrad.cluster.compute.worker import GradientWorker
from sumgrad.cluster.errors import FingerprintMismatch
from tests.cluster.small_job import SmallJob


def numpys_blas() -> list[dict[str, Any]]:
    pools = ThreadpoolController().select(user_api="blas").info()
    return [pool for pool in pools if "numpy" in pool["filepath"]]


def test_one_process_has_one_fingerprint() -> None:
    ours = compute_fingerprint()
    check_same_fingerprint(ours, asdict(compute_fingerprint()), worker=0)
    (blas,) = numpys_blas()
    for part in ("openblas", blas["version"], blas["architecture"], "threads=1"):
        assert part in ours.blas
    assert ours.numpy == np.__version__


def test_a_fingerprint_and_a_worker_limit_blas_to_one_thread(small_job: SmallJob) -> None:
    for limit in (compute_fingerprint, lambda: GradientWorker(0, small_job.workload)):
        ThreadpoolController().limit(limits=2, user_api="blas")
        limit()
        assert [blas["num_threads"] for blas in numpys_blas()] == [1]


@pytest.mark.parametrize("field", ["machine", "numpy", "blas", "canary"])
def test_any_difference_is_refused_and_named(field: str) -> None:
    ours = compute_fingerprint()
    with pytest.raises(FingerprintMismatch, match=rf"worker 3's {field} is other, the driver's is"):
        check_same_fingerprint(ours, {**asdict(ours), field: "other"}, worker=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "sqrt", "tanh"])
def test_one_different_rounding_of_a_function_changes_the_canary(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another C library may round like this."""
    function: Callable[[np.ndarray], np.ndarray] = getattr(np, name)

    def rounds_differently(x: np.ndarray) -> np.ndarray:
        y = function(x)
        if x.dtype == dtype:
            y.flat[y.size // 3] = np.nextafter(y.flat[y.size // 3], np.inf, dtype=dtype)
        return y

    before = fingerprint._canary()
    monkeypatch.setattr(np, name, rounds_differently)
    assert fingerprint._canary() != before
