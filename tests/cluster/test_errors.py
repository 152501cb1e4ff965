"""The messages and attributes of the cluster's errors."""

from sumgrad.cluster.errors import Diverged, MicrobatchFailed


def test_a_failed_microbatch_can_name_the_location_of_its_rows() -> None:
    error = MicrobatchFailed(2, range(5, 6), "summing", "ValueError: bad", "train", [7])
    assert str(error) == "worker 2 failed on microbatch 5 while summing: ValueError: bad"
    located = error.with_location("a.csv, row 8")
    assert str(located) == (
        "worker 2 failed on microbatch 5 (a.csv, row 8) while summing: ValueError: bad"
    )
    assert located.__dict__ == error.__dict__ | {"message": str(located)}


def test_a_divergence_names_epoch_step_and_cause() -> None:
    error = Diverged(3, 40, "the loss", "eta is large", hint="lower it")
    assert str(error) == "the loss is not finite at epoch 3, step 40: eta is large"
    assert (error.epoch, error.step, error.hint) == (3, 40, "lower it")
