"""The limits that follow from the usual time of a microbatch."""

import math

import pytest

from sumgrad.cluster.planning.stragglers import StragglerDetector


def test_without_measurements_no_worker_is_late_and_the_hang_timeout_doubles() -> None:
    detector = StragglerDetector()
    assert detector.speculate_after("a", 1) == math.inf
    assert detector.hang_timeout("a", 7) == 60.0
    detector.record_hang("a")
    detector.record_hang("a")
    assert detector.hang_timeout("a", 1) == 240.0
    assert detector.hang_timeout("b", 1) == 60.0


def test_limits_grow_with_the_usual_time_and_the_number_of_microbatches() -> None:
    detector = StragglerDetector()
    detector.record("a", 6.0, 3)
    assert detector.speculate_after("a", 1) == pytest.approx(3 * 2.0 + 0.02)
    assert detector.speculate_after("a", 4) == pytest.approx(3 * 2.0 * 4 + 0.02)
    assert detector.hang_timeout("a", 1) == pytest.approx(60.0)
    assert detector.hang_timeout("a", 4) == pytest.approx(240.0)
    assert detector.speculate_after("b", 1) == math.inf


def test_the_hang_timeout_has_a_minimum() -> None:
    detector = StragglerDetector()
    detector.record("a", 0.001, 1)
    assert detector.hang_timeout("a", 1) == 5.0


def test_a_new_measurement_has_a_tenth_of_the_weight() -> None:
    detector = StragglerDetector()
    detector.record("a", 1.0, 1)
    detector.record("a", 2.0, 1)
    assert detector.speculate_after("a", 1) == pytest.approx(3 * 1.1 + 0.02)
