"""What the bits of a worker's arithmetic depend on, and a canary product that shows them.

Same plan, same wheels, same fingerprint: same weights. Another architecture, BLAS or kernel family
may round otherwise; the driver refuses a mixture instead of giving other bits silently.
"""

import hashlib
import platform
from dataclasses import asdict, dataclass

import numpy as np
from threadpoolctl import ThreadpoolController

from sumgrad.cluster.errors import FingerprintMismatch
from sumgrad.model.random_streams import RandomStream, Stream


@dataclass(frozen=True)
class Fingerprint:
    """A process's arithmetic.

    Attributes:
        machine: Architecture.
        numpy: NumPy's version.
        blas: BLAS build with its kernel family and thread count.
        canary: SHA-256 of a product and of elementary functions over fixed numbers.
    """

    machine: str
    numpy: str
    blas: str
    canary: str


def pin_blas() -> ThreadpoolController:
    """One BLAS thread from here on in this process: more would change the bits."""
    controller = ThreadpoolController()
    controller.limit(limits=1, user_api="blas")
    return controller


def compute_fingerprint() -> Fingerprint:
    """Pin the BLAS and describe this process's arithmetic."""
    pin_blas()
    # Asked anew, for the thread count that now holds.
    pools = [pool for pool in ThreadpoolController().info() if pool["user_api"] == "blas"]
    described = sorted(
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')} "
        f"threads={pool['num_threads']}"
        for pool in pools
        if "numpy" in pool["filepath"]
    )
    return Fingerprint(
        machine=platform.machine(),
        numpy=np.__version__,
        blas="; ".join(described) or "unknown",
        canary=_canary(),
    )


def _canary() -> str:
    """The hash of what this process makes of fixed numbers.

    The elementary functions are NumPy's own for some processors and types, and else those of the C
    library, which rounds them by its version; over the ranges in which activations and divergences
    use them.
    """
    digest = hashlib.sha256()
    stream = RandomStream(2026, Stream.FINGERPRINT)
    left = stream.normal((67, 129))
    right = stream.normal((129, 43))
    for dtype in ("float32", "float64"):
        product = left.astype(dtype) @ right.astype(dtype)
        for result in (product, product.sum(axis=0), np.exp(product), np.tanh(product)):
            digest.update(result.tobytes())
        # From what a softmax calls impossible up to large sums.
        positive = np.logspace(-30, 4, 1021).astype(dtype)
        exponents = np.linspace(-40, 2, 1021).astype(dtype)
        for result in (
            *(np.log(positive), np.log1p(positive), np.sqrt(positive)),
            *(np.exp(exponents), np.expm1(exponents), np.tanh(exponents)),
        ):
            digest.update(result.tobytes())
    return digest.hexdigest()


def check_same_fingerprint(expected: Fingerprint, actual: Fingerprint, worker: int) -> None:
    """Raise unless a worker's arithmetic is the driver's.

    Raises:
        FingerprintMismatch: Names the worker and what differs.
    """
    ours, theirs = asdict(expected), asdict(actual)
    for name, value in ours.items():
        if theirs[name] != value:
            raise FingerprintMismatch(
                f"worker {worker}'s {name} is {theirs[name]}, the driver's is {value}",
                hint="install the same wheels on every node; for a mixture of processors set "
                "OPENBLAS_CORETYPE and NPY_DISABLE_CPU_FEATURES on all, see docs/machines.md",
            )
