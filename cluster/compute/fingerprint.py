"""The arithmetic fingerprint of a process: everything that the bits of its results depend on.

Same plan, same wheels and same fingerprint give the same weights. Another architecture, BLAS or
kernel family may round differently; the driver refuses such a mixture.
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from threadpoolctl import ThreadpoolController

from sumgrad.cluster.errors import FingerprintMismatch
from sumgrad.model.random_streams import RandomStream, Stream


@dataclass(frozen=True)
class Fingerprint:
    """The arithmetic of a process."""

    machine: str
    numpy: str
    blas: str  #: BLAS build with its kernel family and thread count.
    canary: str  #: SHA-256 of products and of elementary functions over fixed numbers.


def pin_blas() -> None:
    """Limit BLAS to one thread in this process, because more would change the bits."""
    ThreadpoolController().limit(limits=1, user_api="blas")


def compute_fingerprint() -> Fingerprint:
    """Pin BLAS and return this process's fingerprint."""
    pin_blas()
    # A new controller reports the thread count that is in force now.
    pools = sorted(
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')} "
        f"threads={pool['num_threads']}"
        for pool in ThreadpoolController().info()
        if pool["user_api"] == "blas" and "numpy" in pool["filepath"]
    )
    blas = "; ".join(pools) or "unknown"
    return Fingerprint(platform.machine(), np.__version__, blas, _canary())


def _canary() -> str:
    """Return the hash of what may be rounded differently elsewhere.

    Depending on processor and type, NumPy uses its own elementary functions or those of the C
    library, whose rounding depends on its version. The ranges are those in which activations and
    divergences use them.
    """
    digest = hashlib.sha256()
    stream = RandomStream(2026, Stream.FINGERPRINT)
    left = stream.normal((67, 129))
    right = stream.normal((129, 43))
    for dtype in ("float32", "float64"):
        product = left.astype(dtype) @ right.astype(dtype)
        # From the smallest probability that a softmax returns up to large sums.
        positive = np.logspace(-30, 4, 1021).astype(dtype)
        exponents = np.linspace(-40, 2, 1021).astype(dtype)
        for result in (
            *(product, product.sum(axis=0), np.exp(product), np.tanh(product)),
            *(np.log(positive), np.log1p(positive), np.sqrt(positive)),
            *(np.exp(exponents), np.expm1(exponents), np.tanh(exponents)),
        ):
            digest.update(result.tobytes())
    return digest.hexdigest()


def check_same_fingerprint(expected: Fingerprint, actual: Mapping[str, str], worker: int) -> None:
    """Raise `FingerprintMismatch`, with the first difference, unless a worker has the driver's."""
    for name, value in asdict(expected).items():
        if actual.get(name) != value:
            raise FingerprintMismatch(
                f"worker {worker}'s {name} is {actual.get(name)}, the driver's is {value}",
                hint="install the same wheels on every node; for a mixture of processors set "
                "OPENBLAS_CORETYPE and NPY_DISABLE_CPU_FEATURES on all, see docs/machines.md",
            )
