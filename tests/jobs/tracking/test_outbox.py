"""The outbox: no value is lost and none is sent twice, wherever a process ends."""

import errno
import io
import json
import logging
import math
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumgrad.jobs.tracking.outbox import METRICS, RECEIPT, Outbox, Receipt, read_points
from tests.disks import fill, small_disk
from tests.jobs.tracking.conftest import FINISHED


def log(outbox: Outbox, first: int, last: int) -> None:
    for step in range(first, last + 1):
        outbox.log(step, {"loss": 1 / step})


def steps(directory: Path, offset: int = 0) -> list[int]:
    points, _ = read_points(directory, offset, 9999)
    assert all(point.value == 1 / point.step for point in points)
    return [point.step for point in points]


def test_values_are_read_in_batches_with_their_offsets(tmp_path: Path) -> None:
    log(Outbox(tmp_path), 1, 5)
    points, offset = read_points(tmp_path, 0, 2)
    assert [(point.key, point.value, point.step) for point in points] == [
        ("loss", 1.0, 1),
        ("loss", 0.5, 2),
    ]
    assert steps(tmp_path, offset) == [3, 4, 5]
    _, end = read_points(tmp_path, offset, 9999)
    assert read_points(tmp_path, end, 9999) == ([], end)


def test_values_that_a_resumed_run_repeats_are_left_out(tmp_path: Path) -> None:
    log(Outbox(tmp_path), 1, 3)
    again = Outbox(tmp_path)
    again.log(3, {"loss": 99.0, "accuracy": 0.5})
    again.log(4, {"loss": 0.25})
    points, _ = read_points(tmp_path, 0, 99)
    assert [(point.key, point.step) for point in points[2:]] == [
        ("loss", 3),
        ("accuracy", 3),
        ("loss", 4),
    ]
    assert points[2].value == 1 / 3


def test_values_that_are_not_finite_are_noted_and_left_out(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for step in (1, 2):
        outbox.log(step, {"loss": 1 / step, "gap": math.inf, "norm": math.nan})
    assert outbox.non_finite == {"gap": 1, "norm": 1}
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("torn", [b'["loss", 0.5, 4', b"\xff\xfe", b'["loss", 0.5, 4, 1]'])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    log(Outbox(tmp_path), 1, 3)
    with (tmp_path / METRICS).open("ab") as file:
        file.write(torn)
    assert steps(tmp_path) == [1, 2, 3]
    log(Outbox(tmp_path), 4, 5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "line",
    [b'["loss"]', b"null", b'["a", 1e999, 1, 1]', b'["a", 1, 1e999, 1]', b"[" * 100_000, b"\xff"],
    ids=range(6),
)
def test_damaged_lines_are_skipped_with_a_warning(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    log(Outbox(tmp_path), 1, 3)
    lines = (tmp_path / METRICS).read_bytes().splitlines(keepends=True)
    lines[1] = line + b"\n"
    (tmp_path / METRICS).write_bytes(b"".join(lines))
    log(Outbox(tmp_path), 4, 4)
    assert steps(tmp_path) == [1, 3, 4]
    assert f"{tmp_path / METRICS} is damaged: 1 values are lost" in caplog.messages


def test_a_file_that_a_crash_cut_is_sent_again_from_its_start(tmp_path: Path) -> None:
    log(Outbox(tmp_path), 1, 3)
    Receipt("run", 10_000).write(tmp_path)
    log(Outbox(tmp_path), 4, 999)
    assert Receipt.read(tmp_path) == Receipt("run", 0)


@pytest.mark.parametrize("text", ["", "x", "[]", '{"metrics_offset": "a"}', '{"end": 5}'])
def test_a_damaged_receipt_means_that_mlflow_has_nothing(tmp_path: Path, text: str) -> None:
    receipt = Receipt("run", 7, "model", "digest", FINISHED)
    receipt.write(tmp_path)
    assert Receipt.read(tmp_path) == receipt
    (tmp_path / RECEIPT).write_text(text)
    assert Receipt.read(tmp_path) == Receipt()


def test_a_receipt_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    replace(Receipt(), metrics_offset=1).write(tmp_path / "missing")


def test_values_wait_in_memory_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outbox = Outbox(tmp_path)
    log(outbox, 1, 1)
    with monkeypatch.context() as full:
        full.setattr(outbox, "_path", Path("/dev/full"))
        log(outbox, 2, 3)
        with pytest.raises(OSError, match=r"No space|Illegal seek"):
            outbox.sync()
        assert [point.step for point in outbox.unwritten()] == [2, 3]
    outbox.sync()
    assert outbox.unwritten() == []
    log(outbox, 4, 4)
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert [message.partition(" /")[0] for message in caplog.messages] == [
        "metrics cannot be written to",
        "metrics are written to",
    ]


def test_values_that_are_logged_during_a_write_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training logs values while the thread that writes checkpoints brings others to the disk."""
    outbox = Outbox(tmp_path)
    threads: list[threading.Thread] = []

    class SlowFile(io.FileIO):
        def write(self, data: Any) -> int:
            if not threads:
                threads.append(threading.Thread(target=log, args=(outbox, 2, 2)))
                threads[0].start()
                # It ends only if nothing makes it wait for this write.
                threads[0].join(0.2)
            return super().write(data)

    path = SimpleNamespace(open=lambda *_, **__: SlowFile(tmp_path / METRICS, "r+"))
    monkeypatch.setattr(outbox, "_path", path)
    log(outbox, 1, 1)
    threads[0].join()
    assert steps(tmp_path) == [1, 2]
    assert caplog.messages == []


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        outbox = Outbox(disk)
        log(outbox, 1, 3)
        with (disk / METRICS).open("ab") as file:
            file.write(b'["loss", 0.5, 4')
        filling = fill(disk)
        outbox = Outbox(disk)
        log(outbox, 4, 999)
        assert outbox.unwritten()
        with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}"):
            outbox.sync()
        filling.unlink()
        outbox.sync()
        assert steps(disk) == list(range(1, 1000))


@settings(max_examples=200, deadline=None)
@given(
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=1))),
)
def test_any_damage_is_survived(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    log(Outbox(directory), 1, 5)
    data = bytearray((directory / METRICS).read_bytes()[:cut])
    for position, byte in flips:
        if position < len(data):
            data[position : position + 1] = byte
    (directory / METRICS).write_bytes(data)
    Outbox(directory).log(9, {"other": 0.5})
    points, offset = read_points(directory, 0, 999)
    assert (points[-1].key, points[-1].step) == ("other", 9)
    assert offset == (directory / METRICS).stat().st_size
    json.dumps([point.value for point in points], allow_nan=False)
