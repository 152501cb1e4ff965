"""What the benchmarks make of their measurements, and that a contender computes what it should."""

import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import Cell, data
from benchmarks.compare import Measured, ddp_table, geometric_mean, plot, sklearn_table
from benchmarks.contender import Contender
from benchmarks.growth import line_through
from benchmarks.kernel_steps import kernel
from benchmarks.sumgrad_steps import network_of, workload_of

CELL = Cell((128,), 64)


def test_a_cells_parameters_are_its_networks() -> None:
    for cell in (CELL, Cell((256, 256), 512)):
        assert cell.parameters == network_of(cell).layout.size
    assert CELL.network == "784-128-10"


def test_ratios_say_who_is_faster() -> None:
    measured = Measured(CELL, {"Ray": 2.0, "inline": 1.0, "DDP": 4.0, "kernel": 0.5})
    assert measured.times_as_fast("DDP", "Ray") == 2.0
    assert measured.times_as_fast("kernel", "Ray") == 0.25
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert "| 784-128-10 | 64 | 2.00 | 1.00 | 4.00 | 0.50 | 2.00 | 4.00 | 25% |" in (
        ddp_table([measured])
    )


def test_rates_are_instances_a_second() -> None:
    measured = Measured(CELL, {"Ray": 2.0, "inline": 1.0, "sklearn": 4.0})
    assert "| 784-128-10 | 64 | 16,000 | 64,000 | 32,000 | 4.00 | 2.00 |" in (
        sklearn_table([measured])
    )


def test_the_line_is_found() -> None:
    start, slope = line_through([(x, 0.5 + 0.25 * x) for x in (1, 10, 1000)])
    assert start == pytest.approx(0.5)
    assert slope == pytest.approx(0.25)


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    measured = Measured(CELL, {"Ray": 2.0, "inline": 1.0, "DDP": 4.0, "kernel": 0.5})
    plot([measured], tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_the_bare_kernel_can_run_on_the_data() -> None:
    x, classes = data()
    kernel(CELL, 32)(x, classes, np.arange(32))
    assert np.isfinite(x).all()


def test_a_contender_answers_with_the_seconds_of_its_steps() -> None:
    assert workload_of(CELL).plans["train"].microbatch_size == 32
    with Contender("benchmarks.sumgrad_steps", "inline", "1") as contender:
        seconds = contender.steps(CELL, 3)
        assert len(seconds) == 3
        assert 0 < statistics.median(seconds) < 10
        assert len(contender.steps(Cell((8,), 512), 40)) == 40
