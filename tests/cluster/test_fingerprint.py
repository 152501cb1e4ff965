"""A mixture of arithmetic is refused, and the BLAS is pinned."""

from dataclasses import replace

import pytest
from threadpoolctl import ThreadpoolController

from cluster.errors import FingerprintMismatch
from cluster.fingerprint import expect_same, take_fingerprint


def test_the_same_process_gives_the_same_fingerprint() -> None:
    ours = take_fingerprint()
    expect_same(ours, take_fingerprint(), worker=0)
    assert "openblas" in ours.blas
    assert "threads=1" in ours.blas


def test_taking_it_pins_the_blas_to_one_thread() -> None:
    ThreadpoolController().limit(limits=2, user_api="blas")
    take_fingerprint()
    pools = ThreadpoolController().select(user_api="blas").info()
    assert [pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]] == [1]


@pytest.mark.parametrize("field", ["machine", "numpy", "blas", "canary"])
def test_any_difference_is_refused_and_named(field: str) -> None:
    ours = take_fingerprint()
    with pytest.raises(FingerprintMismatch, match=rf"worker 3's {field} is other"):
        expect_same(ours, replace(ours, **{field: "other"}), worker=3)
