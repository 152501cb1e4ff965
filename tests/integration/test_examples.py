"""The shipped examples reach their accuracy, and where they run does not change the weights."""

import os
from pathlib import Path

import pytest

from sumgrad.jobs.data.out_of_distribution import KINDS
from tests.integration.command_line import Finished, Folder


@pytest.fixture(scope="module")
def digits(shared_folder: Folder) -> Finished:
    return shared_folder.sumgrad("train", "digits", "--json", "--set", "cluster.address=inline")


def test_digits_converges_and_is_right_on_96_of_100_held_out_digits(digits: Finished) -> None:
    assert digits.code == 0, digits.err
    assert digits.result["stop_reason"] == "converged"
    assert digits.result["test_accuracy"] >= 0.96


@pytest.mark.ray
def test_digits_has_the_same_weights_on_three_ray_workers(folder: Folder, digits: Finished) -> None:
    spread = folder.sumgrad("train", "digits", "--json", "--set", "cluster.workers=3")
    assert spread.code == 0, spread.err
    same = ("weights_sha256", "train_loss", "validation_loss", "test_accuracy", "instances_seen")
    assert {key: spread.result[key] for key in same} == {key: digits.result[key] for key in same}


def test_two_or_not_is_right_on_985_of_1000_held_out_digits(folder: Folder) -> None:
    done = folder.sumgrad("train", "two-or-not", "--json", "--set", "cluster.address=inline")
    assert done.result["test_accuracy"] >= 0.985
    out = folder.path / "twos.csv"
    predicted = folder.sumgrad("predict", done.result["run_id"], "digits", "--out", str(out))
    assert predicted.code == 0, predicted.err
    assert out.read_text().splitlines()[0] == '"prediction","probability_not 2","probability_2"'


def test_digits_reject_reports_the_rejected_share_of_each_kind(folder: Folder) -> None:
    done = folder.sumgrad("train", "digits-reject", "--set", "cluster.address=inline")
    assert done.code == 0, done.err
    assert "of the data set's images" in done.out
    for kind in set(KINDS) - {"negatives"}:
        assert f"of '{kind}' images" in done.out
    assert "'seams' images (a kind not seen in training)" in done.out


def test_the_regression_keeps_the_weights_of_its_best_epoch(folder: Folder) -> None:
    done = folder.sumgrad("train", "regression", "--set", "cluster.address=inline")
    assert done.code == 0, done.err
    assert "stopped early" in done.out
    assert "kept      the weights of epoch" in done.out
    assert "accuracy" not in done.out


def test_mnist_without_its_files_explains_how_to_get_them(folder: Folder) -> None:
    done = folder.sumgrad("train", "mnist")
    assert done.code == 2
    assert "MNIST is not installed with sumgrad" in done.err
    assert "--set data.train=FOLDER" in done.err


@pytest.mark.skipif(
    "SUMGRAD_MNIST" not in os.environ,
    reason="SUMGRAD_MNIST does not name a folder with MNIST's four files",
)
def test_mnist_is_right_on_98_of_100_test_digits(folder: Folder) -> None:
    files = Path(os.environ["SUMGRAD_MNIST"]).resolve()
    done = folder.sumgrad(
        "train", "mnist", "--json", f"--set=data.train={files}", f"--set=data.test={files}"
    )
    assert done.code == 0, done.err
    assert done.result["epochs"] <= 20
    assert done.result["test_accuracy"] >= 0.98


@pytest.mark.parametrize("example", ["digits", "two-or-not", "digits-reject", "regression"])
def test_the_gradients_of_every_example_are_checked(folder: Folder, example: str) -> None:
    done = folder.sumgrad("gradcheck", example)
    assert done.code == 0, done.out
    assert "all gradients agree with numeric derivatives" in done.out
