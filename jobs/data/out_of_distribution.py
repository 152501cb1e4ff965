"""Non-digits for a class 'none of the above', made from the digits themselves.

They are honest in two ways: each set is made only from rows of its own role, so that nothing of a
test digit is ever trained on, and some kinds can be kept out of training altogether, to see
whether rejection carries over. They are not the world: a letter or a face is like none of them, and
what a network says of it is not tested by these.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.random_streams import RandomStream

#: Images as (N, height, width).
Images = NDArray[Any]
#: From images, their labels, how many, and a random stream to so many non-digits.
Maker = Callable[[Images, NDArray[Any], int, RandomStream], Images]


def noise(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """Every pixel drawn by itself from all pixels of all digits: their histogram, no shape."""
    pixels = images.reshape(-1)
    result: Images = pixels[stream.integers(pixels.size, (count, *images.shape[1:]))]
    return result


def scrambled(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """A digit with its own pixels in another order."""
    chosen = images[stream.integers(len(images), count)].reshape(count, -1)
    orders = stream.permutations(*chosen.shape)
    result: Images = np.take_along_axis(chosen, orders, axis=1).reshape(count, *images.shape[1:])
    return result


def halves(images: Images, labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """The upper half of one digit over the lower half of a digit of another class."""
    upper, lower = _pairs(labels, count, stream)
    middle = images.shape[1] // 2
    return np.concatenate([images[upper, :middle], images[lower, middle:]], axis=1)


def seams(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """The window between two neighbours: the right half of one digit, the left half of the next."""
    first, second = stream.integers(len(images), (2, count))
    middle = images.shape[2] // 2
    return np.concatenate([images[first, :, middle:], images[second, :, :middle]], axis=2)


def negatives(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """A digit with light and dark exchanged."""
    result: Images = images.max() - images[stream.integers(len(images), count)]
    return result


def _pairs(
    labels: NDArray[Any], count: int, stream: RandomStream
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of rows of different classes, where there is more than one."""
    first, second = stream.integers(len(labels), (2, count))
    several = len(set(labels.tolist())) > 1
    while several and (alike := labels[first] == labels[second]).any():
        second[alike] = stream.integers(len(labels), int(alike.sum()))
    return first, second


#: Every kind that a spec can name.
KINDS: Mapping[str, Maker] = MappingProxyType(
    {
        "halves": halves,
        "negatives": negatives,
        "noise": noise,
        "scrambled": scrambled,
        "seams": seams,
    }
)


def make_out_of_distribution(
    kind: str,
    x: NDArray[Any],
    labels: NDArray[Any],
    shape: tuple[int, int],
    count: int,
    *,
    stream: RandomStream,
) -> NDArray[Any]:
    """Non-digits of a kind, (count, D): from digits x (N, D) of this image shape."""
    images = x.reshape(len(x), *shape)
    return KINDS[kind](images, labels, count, stream).reshape(count, -1)
