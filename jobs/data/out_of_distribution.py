"""Out-of-distribution images for the class 'none of the above', made from the data set's images.

The images of a split are made only from images of that split, so nothing of a test image is trained
on. Some kinds can be kept out of training, to test whether the network rejects kinds that it has
not seen. How it rejects other images, such as letters or faces, is not tested.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.splits import RawSplit, Split
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec, OutOfDistributionKind
from sumgrad.model.random_streams import RandomStream, Stream

Images = NDArray[Any]  #: Images as (N, height, width).
#: Makes a number of images from images and their labels, with a random stream.
Maker = Callable[[Images, NDArray[Any], int, RandomStream], Images]


def noise(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """Draw each pixel from the pixels of all images: their histogram without their shapes."""
    return np.take(images, stream.integers(images.size, (count, *images.shape[1:])))


def scrambled(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """Permute the pixels of an image."""
    chosen = images[stream.integers(len(images), count)].reshape(count, -1)
    orders = stream.permutations(*chosen.shape)
    return np.take_along_axis(chosen, orders, axis=1).reshape(count, *images.shape[1:])


def halves(images: Images, labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """Put the upper half of an image over the lower half of an image of another class."""
    upper, lower = _pairs(labels, count, stream)
    middle = images.shape[1] // 2
    return np.concatenate([images[upper, :middle], images[lower, middle:]], axis=1)


def seams(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """Put the right half of an image to the left of the left half of another image."""
    first, second = stream.integers(len(images), (2, count))
    middle = images.shape[2] // 2
    return np.concatenate([images[first, :, middle:], images[second, :, :middle]], axis=2)


def negatives(images: Images, _labels: NDArray[Any], count: int, stream: RandomStream) -> Images:
    """Invert the brightness of an image."""
    return np.asarray(images.max() - images[stream.integers(len(images), count)])


KINDS: Mapping[OutOfDistributionKind, Maker] = {
    "halves": halves,
    "negatives": negatives,
    "noise": noise,
    "scrambled": scrambled,
    "seams": seams,
}


def add_out_of_distribution(
    spec: JobSpec, splits: Mapping[Split, RawSplit], shape: tuple[int, int] | None
) -> tuple[dict[Split, RawSplit], dict[str, RawSplit]]:
    """Add out-of-distribution images to every split; an image has this height and width.

    Return the splits, images of the data set first, and the made test images by kind. There are as
    many of each unseen kind as there are test images. Without a reject class the splits are
    unchanged, and there are no made images. Rows that are not images raise `SpecError`.
    """
    reject = spec.data.reject
    if reject is None:
        return dict(splits), {}
    if shape is None:
        raise SpecError("a reject class needs images", key="data.reject")
    stream = RandomStream(spec.seed, Stream.OUT_OF_DISTRIBUTION)

    def make(kind: OutOfDistributionKind, images: RawSplit, count: int) -> RawSplit:
        x = KINDS[kind](images.x.reshape(-1, *shape), images.labels, count, stream)
        labels = np.full(count, reject.label, dtype=object)
        origin = replace(images.origin, count=0)
        return RawSplit(x.reshape(count, -1), labels, f"{kind} from {images.source}", origin)

    extended: dict[Split, RawSplit] = {}
    by_kind: dict[str, RawSplit] = {}
    for split in sorted(splits):
        images = splits[split]
        count = max(1, round(len(images.x) * reject.ratio / len(reject.kinds)))
        made: dict[str, RawSplit] = {kind: make(kind, images, count) for kind in reject.kinds}
        extended[split] = _concatenate([images, *made.values()])
        if split == "test":
            by_kind.update(made)
    if "test" in splits:
        images = splits["test"]
        by_kind.update((kind, make(kind, images, len(images.x))) for kind in reject.unseen)
    return extended, by_kind


def _pairs(
    labels: NDArray[Any], count: int, stream: RandomStream
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return pairs of rows, of different classes if there is more than one class."""
    first, second = stream.integers(len(labels), (2, count))
    has_several = len(set(labels.tolist())) > 1
    while has_several and (is_same := labels[first] == labels[second]).any():
        second[is_same] = stream.integers(len(labels), int(is_same.sum()))
    return first, second


def _concatenate(pieces: list[RawSplit]) -> RawSplit:
    dtype = pieces[0].x.dtype
    return replace(
        pieces[0],
        x=np.concatenate([piece.x.astype(dtype, copy=False) for piece in pieces]),
        labels=np.concatenate([piece.labels.astype(object) for piece in pieces]),
    )
