"""The figures that the benchmarks derive from measurements, and one contender."""

import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import Cell, data
from benchmarks.compare import CellResult, ddp_table, geometric_mean, plot, sklearn_table
from benchmarks.contender import Contender
from benchmarks.growth import fit_line
from benchmarks.kernel_steps import kernel
from benchmarks.sumgrad_steps import make_network, make_workload

CELL = Cell((128,), 64)


def test_a_cell_counts_the_parameters_of_its_network() -> None:
    for cell in (CELL, Cell((256, 256), 512)):
        assert cell.parameters == make_network(cell).layout.size
    assert CELL.network == "784-128-10"


def test_a_speedup_above_one_means_faster() -> None:
    measured = CellResult(CELL, {"Ray": 2.0, "inline": 1.0, "DDP": 4.0, "kernel": 0.5})
    assert measured.speedup("Ray", "DDP") == 2.0
    assert measured.speedup("Ray", "kernel") == 0.25
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert "| 784-128-10 | 64 | 2.00 | 1.00 | 4.00 | 0.50 | 2.00 | 4.00 | 25% |" in (
        ddp_table([measured])
    )


def test_rates_are_instances_per_second() -> None:
    measured = CellResult(CELL, {"Ray": 2.0, "inline": 1.0, "sklearn": 4.0})
    assert "| 784-128-10 | 64 | 16,000 | 64,000 | 32,000 | 4.00 | 2.00 |" in (
        sklearn_table([measured])
    )


def test_a_line_is_fitted() -> None:
    start, slope = fit_line([(x, 0.5 + 0.25 * x) for x in (1, 10, 1000)])
    assert start == pytest.approx(0.5)
    assert slope == pytest.approx(0.25)


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    measured = CellResult(CELL, {"Ray": 2.0, "inline": 1.0, "DDP": 4.0, "kernel": 0.5})
    plot([measured], tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_the_bare_kernel_leaves_the_data_unchanged() -> None:
    x, classes = data()
    before = x[:32].copy()
    kernel(CELL, 32)(x, classes, np.arange(32))
    assert np.array_equal(x[:32], before)


def test_a_contender_replies_with_the_seconds_of_its_steps() -> None:
    assert make_workload(CELL).plans["train"].microbatch_size == 32
    with Contender("benchmarks.sumgrad_steps", "inline", "1") as contender:
        seconds = contender.steps(CELL, 3)
        assert len(seconds) == 3
        assert 0 < statistics.median(seconds) < 10
        assert len(contender.steps(Cell((8,), 512), 40)) == 40
