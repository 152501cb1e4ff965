"""Lines for logs, a bar for terminals, and the summary."""

import io
import json
from pathlib import Path

import pytest

from sumgrad.cluster.training.state import EpochReport, Evaluation
from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.runs.progress import LiveReporter, PlainReporter, describe_epoch, make_reporter
from sumgrad.jobs.runs.summary import JSON_KEYS, Summary


def report(epoch: int, validation: Evaluation | None = None) -> EpochReport:
    return EpochReport(epoch, epoch * 10, 0.5 / epoch, validation, 1.0, 0.1, 640, 0.5)


def test_an_epoch_fits_on_a_line() -> None:
    text = describe_epoch(report(2, Evaluation(0.3, 0.9125, 80)), 9)
    assert text == "epoch 2/9  loss 0.2500  validation 0.3000  accuracy 91.25%  1,280 rows/s"
    assert "accuracy" not in describe_epoch(report(2, Evaluation(0.3, None, 80)), 9)
    assert "validation" not in describe_epoch(report(2), 9)


def test_plain_lines_show_every_slow_epoch() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, every_s=0.0)
    reporter.begin(3, 10)
    for epoch in (1, 2, 3):
        reporter.epoch(report(epoch))
    reporter.end()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/3", "2/3", "3/3"]
    assert stream.getvalue().splitlines()[-1].endswith("at most 0 s left")


def test_the_time_left_is_in_hours_and_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5263.0])
    monkeypatch.setattr("sumgrad.jobs.runs.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    reporter.begin(2, 10)
    reporter.epoch(report(1))
    assert stream.getvalue().endswith("at most 1 h 27 min left\n")


def test_the_time_left_of_a_resumed_run_counts_from_where_it_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 60.0])
    monkeypatch.setattr("sumgrad.jobs.runs.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    # Half of epoch 7 takes a minute, so the last three epochs take six.
    reporter.begin(10, 10, first_step=65)
    reporter.epoch(report(7))
    assert stream.getvalue().endswith("at most 6 min 0 s left\n")


def test_a_run_that_resumes_after_the_last_step_of_an_epoch_shows_no_time_left() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, every_s=0.0)
    # The epoch was not reported before the run stopped, and it has no steps left.
    reporter.begin(10, 10, first_step=70)
    reporter.epoch(report(7))
    reporter.epoch(report(8))
    first, second = stream.getvalue().splitlines()
    assert first == describe_epoch(report(7), 10)
    assert second.endswith(" left")


def test_the_live_bar_of_a_resumed_run_starts_where_it_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reporter = LiveReporter(Terminal())
    reporter.begin(10, 10, first_step=65)
    (task,) = reporter._progress.tasks
    assert (task.completed, task.total, task.speed) == (65, 100, None)
    reporter.step(6)
    assert task.completed == 66
    reporter.end()


def test_plain_lines_skip_fast_epochs_except_the_first_and_the_last() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream, every_s=3600.0)
    reporter.begin(50, 10)
    for epoch in range(1, 51):
        reporter.epoch(report(epoch))
    reporter.end()
    reporter.end()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/50", "50/50"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_live_display_and_a_pipe_plain_lines() -> None:
    assert isinstance(make_reporter(Terminal()), LiveReporter)
    assert isinstance(make_reporter(io.StringIO()), PlainReporter)


def test_the_live_display_leaves_the_last_epoch_uncut_on_80_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    reporter = LiveReporter(stream)
    reporter.note("a [bold]name[/bold] " + "x" * 90)
    reporter.begin(100, 3)
    for step in (1, 2, 3):
        reporter.step(step)
    last = EpochReport(100, 300, 0.5, Evaluation(0.3, 0.9125, 80), 1.0, 0.1, 10**6, 1.0)
    reporter.epoch(last)
    reporter.end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "a [bold]name[/bold] " + "x" * 90
    assert lines[-1].endswith(describe_epoch(last, 100))


@pytest.fixture
def summary() -> Summary:
    return Summary("job", "FINISHED", StopReason.CONVERGED, "sqlite:////x/mlflow.db")


def test_the_json_object_has_the_promised_keys_in_their_order(summary: Summary) -> None:
    value = json.loads(summary.to_json())
    assert tuple(value) == JSON_KEYS
    assert value["stop_reason"] == "converged"
    assert value["test_accuracy"] is None


def test_numbers_that_json_lacks_are_null(summary: Summary) -> None:
    summary.train_loss = float("nan")
    assert json.loads(summary.to_json())["train_loss"] is None


def test_a_summary_without_test_rows_has_no_line_about_them(summary: Summary) -> None:
    assert not any("test" in line for line in summary.lines())
    summary.test = Evaluation(0.5, None, 10)
    assert "  test      loss 0.5000 on 10 rows" in summary.lines()
    summary.test = Evaluation(0.5, 0.9, 10)
    assert "  test      accuracy 90.00%, loss 0.5000 on 10 rows" in summary.lines()
    assert json.loads(summary.to_json())["test_accuracy"] == 0.9


def test_the_maximum_of_epochs_is_named_once(summary: Summary) -> None:
    summary.stop_reason, summary.epochs, summary.steps = StopReason.MAX_EPOCHS, 50, 1150
    assert summary.lines() == ["job stopped after 50 epochs, the maximum (1,150 steps) in 0.0 s"]


def test_paths_below_the_current_folder_are_relative(
    summary: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    summary.run_id = "job-ab12cd"
    summary.model_folder = str(tmp_path / "runs" / "a")
    summary.tracking_uri = f"sqlite:///{tmp_path}/mlflow.db"
    text = "\n".join(summary.lines())
    assert "model     runs/a" in text
    assert "in sqlite:///mlflow.db" in text
    summary.model_folder, summary.tracking_uri = "/elsewhere/a", "http://tracking:5000"
    text = "\n".join(summary.lines())
    assert "model     /elsewhere/a" in text
    assert "in http://tracking:5000" in text


@pytest.fixture
def ended(summary: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Summary:
    """A run in the default folder and the default store."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "SUMGRAD_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    summary.run_id, summary.can_resume = "job-ab12cd", True
    summary.run_folder = str(tmp_path / "runs" / summary.run_id)
    summary.model_folder = f"{summary.run_folder}/model"
    summary.tracking_uri = f"sqlite:///{tmp_path}/mlflow.db"
    return summary


def commands(summary: Summary) -> list[str]:
    """The next commands, without their descriptions."""
    return [
        line.partition("  sumgrad ")[2].strip() for line in summary.lines() if "sumgrad" in line
    ]


def test_next_commands_can_be_typed(ended: Summary) -> None:
    assert commands(ended) == ["resume job-ab12cd", "ui", "predict job-ab12cd FILE"]
    ended.is_delivered = False
    assert commands(ended) == ["resume job-ab12cd", "sync job-ab12cd"]
    assert not any("sumgrad" in line for line in ended.lines(show_next_commands=False))


def test_a_run_outside_the_default_folder_is_named_by_its_folder(
    ended: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended.run_folder = str(tmp_path / "my runs" / "b")
    assert commands(ended)[0] == "resume 'my runs/b'"
    ended.is_delivered = False
    assert commands(ended)[1] == "sync 'my runs/b'"
    monkeypatch.setenv("SUMGRAD_OUTPUT", str(tmp_path / "my runs"))
    assert commands(ended) == ["resume job-ab12cd", "sync job-ab12cd"]


def test_a_store_other_than_the_default_is_named(
    ended: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended.tracking_uri = "http://tracking:5000"
    there = " --tracking-uri http://tracking:5000"
    assert commands(ended)[1:] == [f"ui{there}", f"predict job-ab12cd FILE{there}"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000/")
    assert commands(ended)[1:] == ["ui", "predict job-ab12cd FILE"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense")
    assert commands(ended)[1:] == [f"ui{there}", f"predict job-ab12cd FILE{there}"]


def test_a_store_with_a_password_is_not_printed(
    ended: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended.tracking_uri = "http://***@tracking:5000"
    assert commands(ended)[1:] == ["predict runs/job-ab12cd/model FILE"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cr3t@tracking:5000")
    assert commands(ended)[1:] == ["ui", "predict job-ab12cd FILE"]


@pytest.mark.parametrize("reason", [StopReason.DIVERGED, StopReason.FAILED])
def test_a_failed_run_offers_no_predictions(ended: Summary, reason: StopReason) -> None:
    ended.stop_reason = reason
    assert commands(ended) == ["resume job-ab12cd", "ui"]


def test_the_hash_fits_on_80_columns(ended: Summary) -> None:
    ended.weights_sha256 = "f" * 64
    assert [len(line) for line in ended.lines() if "sha256" in line] == [76]
