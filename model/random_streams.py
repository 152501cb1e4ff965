"""The registry of random streams: every use of a job's seed, by name.

A stream is a sequence of Philox4x64-10 blocks (Salmon et al., 2011). The seed is the cipher's key;
the stream's number and index are the upper half of its counter, and the lower half counts the
blocks. So two streams of a seed never share a block, and no stream depends on another.

The bits outlive NumPy versions and do not depend on the processor. Only ``random_raw`` is used,
whose output Philox's definition fixes; `numpy.random.Generator` may change its methods. The
numbers are computed from the raw output with integer arithmetic and with floating-point operations
whose rounding IEEE 754 fixes, without functions of the C library; `normal_quantile` does the same.
"""

from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.errors import OptionError
from sumgrad.model.normal_quantile import normal_quantile
from sumgrad.model.validation import Array

Indices = NDArray[np.intp]

_WORD = 2**64
_CHUNK = 8192  #: Normal numbers computed at once; their arrays fit into a core's cache.


@unique
class Stream(IntEnum):
    """Every use of a seed. The number is part of the bits: never change or reuse one."""

    WEIGHTS = 1  #: Initial weights; the index is the layer, from 0.
    ROW_ORDER = 2  #: The order of the training rows; the index is the epoch.
    TEST_SPLIT = 3  #: The rows of the test split.
    VALIDATION_SPLIT = 4  #: The rows of the validation split.
    OUT_OF_DISTRIBUTION = 5  #: Rows made for the class "none of the above".
    GRADIENT_CHECK = 6  #: Entries, directions and made-up rows of a gradient check.
    FINGERPRINT = 7  #: The numbers of the arithmetic fingerprint.


class RandomStream:
    """The numbers of one stream of a seed, in order.

    Seeds are from 0, below 2**128; an index, below 2**64, distinguishes streams of the same name.

    >>> RandomStream(7, Stream.ROW_ORDER, index=1).permutation(5)
    array([2, 4, 0, 1, 3])
    """

    def __init__(self, seed: int, stream: Stream, index: int = 0) -> None:
        for name, value, limit in (("seed", seed, _WORD**2), ("stream index", index, _WORD)):
            if not 0 <= value < limit:
                raise OptionError(f"{name} is {value}, expected an integer >= 0")
        key = np.array([seed % _WORD, seed // _WORD], dtype=np.uint64)
        counter = np.array([0, 0, index, stream], dtype=np.uint64)
        self._philox = np.random.Philox(key=key, counter=counter)

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Return the next ``count`` outputs of the generator, 64 bits each."""
        return self._philox.random_raw(count)

    def uniform(self, shape: int | tuple[int, ...]) -> Array:
        """Return numbers uniform in [0, 1): the top 53 bits of an output each, times 2**-53."""
        return ((self.raw(_size(shape)) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def normal(self, shape: int | tuple[int, ...]) -> Array:
        """Return standard normal numbers: the quantile of a uniform number each.

        The top 52 bits plus one half, times 2**-52, lie in (0, 1) and are exact in float64.
        """
        result = np.empty(_size(shape))
        for start in range(0, result.size, _CHUNK):
            chunk = result[start : start + _CHUNK]
            chunk[...] = self.raw(chunk.size) >> np.uint64(12)
            chunk[...] = normal_quantile((chunk + 0.5) * 2.0**-52)
        return result.reshape(shape)

    def integers(self, high: int, shape: int | tuple[int, ...]) -> Indices:
        """Return integers from 0, below ``high``: the top 32 bits times high, over 2**32.

        The probabilities of two numbers differ by a factor of ``1 + high / 2**32`` or less.
        """
        if not 0 < high <= 2**32:
            raise OptionError(f"the upper limit is {high}, expected one from 1 to 2**32")
        scaled = (self.raw(_size(shape)) >> np.uint64(32)) * np.uint64(high)
        return (scaled >> np.uint64(32)).astype(np.intp).reshape(shape)

    def signs(self, shape: int | tuple[int, ...]) -> Array:
        """Return −1 or 1 with equal probability."""
        return 2.0 * self.integers(2, shape) - 1.0

    def permutation(self, count: int) -> Indices:
        """Return the numbers from 0, below ``count``, in random order."""
        (result,) = self.permutations(1, count)
        return np.asarray(result)

    def permutations(self, rows: int, count: int) -> Indices:
        """Return ``rows`` independent permutations, (rows, count).

        Each number is attached to a random output as its lowest bits, and the words are sorted.
        They are distinct, so their order does not depend on the sorting algorithm; two numbers
        whose remaining random bits are equal stay in ascending order.
        """
        width = np.uint64(max(count - 1, 1).bit_length())
        words = self.raw(rows * count).reshape(rows, count)
        words >>= width
        words <<= width
        words |= np.arange(count, dtype=np.uint64)
        words.sort(axis=1)
        words &= (np.uint64(1) << width) - np.uint64(1)
        return words.view(np.intp)


def _size(shape: int | tuple[int, ...]) -> int:
    return int(np.prod(shape))
