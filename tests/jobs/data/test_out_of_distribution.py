"""Out-of-distribution images: every kind, seeds, and that no test image is trained on."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sumgrad.jobs.data.out_of_distribution import KINDS
from sumgrad.jobs.data.prepare import PreparedData
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import OutOfDistributionKind
from sumgrad.model.random_streams import RandomStream, Stream
from tests.jobs.data.cases import outputs, prepared, write_csv

SHAPE = (4, 4)
#: A pixel is 20 times the number of its image, plus its position.
LABELS = np.array([0, 0, 1, 1, 2])
IMAGES = (np.arange(5)[:, None] * 20 + np.arange(16)).astype(np.uint8)


def make(kind: OutOfDistributionKind, seed: int = 0) -> NDArray[np.uint8]:
    """Fifty images of a kind, (50, 16)."""
    stream = RandomStream(seed, Stream.OUT_OF_DISTRIBUTION)
    images: NDArray[np.uint8] = KINDS[kind](IMAGES.reshape(-1, *SHAPE), LABELS, 50, stream)
    return images.reshape(50, -1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_seeded_and_keeps_shape_and_range(kind: OutOfDistributionKind) -> None:
    made = make(kind)
    assert made.shape == (50, 16)
    assert made.dtype == np.uint8
    assert made.max() <= IMAGES.max()
    np.testing.assert_array_equal(made, make(kind))
    assert (made != make(kind, seed=1)).any()


def test_noise_has_the_values_of_the_images() -> None:
    assert np.isin(make("noise"), IMAGES).all()


def test_scrambled_keeps_the_pixels_of_one_image() -> None:
    originals = {tuple(image) for image in IMAGES.tolist()}
    assert {tuple(sorted(image)) for image in make("scrambled").tolist()} <= originals


def test_halves_are_of_two_classes() -> None:
    made = make("halves").reshape(-1, *SHAPE) // 20
    upper, lower = made[:, :2], made[:, 2:]
    assert (upper == upper[:, :1, :1]).all()
    assert (lower == lower[:, :1, :1]).all()
    assert (LABELS[upper[:, 0, 0]] != LABELS[lower[:, 0, 0]]).all()


def test_seams_are_a_right_half_and_then_a_left_one() -> None:
    made = make("seams").reshape(-1, *SHAPE) % 20 % 4
    assert (made == [2, 3, 0, 1]).all()


def test_negatives_invert_the_brightness() -> None:
    assert np.isin(IMAGES.max() - make("negatives"), IMAGES).all()


@pytest.fixture(scope="module")
def rejecting() -> PreparedData:
    reject = {"ratio": 0.3, "kinds": ["noise", "halves"], "unseen": ["seams"]}
    return prepared(outputs(11), train="digits", test=0.2, validation=0.1, reject=reject)


def test_the_reject_class_is_the_last_and_the_kinds_are_balanced(rejecting: PreparedData) -> None:
    assert rejecting.schema.classes == (*range(10), "none")
    assert rejecting.schema.reject == "none"
    for rows, digits in ((rejecting.train, 1295), (rejecting.validation, 143)):
        assert rows is not None
        each = round(digits * 0.3 / 2)
        assert rows.count == digits + 2 * each
        assert np.count_nonzero(rows.d == 10) == 2 * each
    counts = {kind: rows.count for kind, rows in rejecting.out_of_distribution.items()}
    assert counts == {"noise": 54, "halves": 54, "seams": 359}
    assert all((rows.d == 10).all() for rows in rejecting.out_of_distribution.values())


def test_images_of_a_split_are_made_from_images_of_that_split(rejecting: PreparedData) -> None:
    halves, test = rejecting.out_of_distribution["halves"], rejecting.test
    assert test is not None
    own, foreign = test.x[test.d != 10], rejecting.train.x[rejecting.train.d != 10]
    uppers = {image[:32].tobytes() for image in own}
    assert all(image[:32].tobytes() in uppers for image in halves.x)
    # Upper halves of two digits are rarely equal.
    others = {image[:32].tobytes() for image in foreign}
    assert sum(image[:32].tobytes() in others for image in halves.x) <= 2


def test_a_reject_class_is_seeded() -> None:
    def digest(seed: int) -> str:
        return prepared(outputs(11), train="digits", reject={}, seed=seed).train.digest

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_a_reject_class_of_rows_that_are_not_images_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1,a", "2,b")
    with pytest.raises(SpecError, match="needs images"):
        prepared(outputs(3), train=path, reject={})
