"""Random streams: their registry, that none meets another, and the bits that they give."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sumgrad
from sumgrad.model.errors import OptionError
from sumgrad.model.random_streams import RandomStream, Stream

WORD = 2**64


def philox(seed: int, stream: int, index: int) -> Iterator[int]:
    """Philox4x64-10 as its paper defines it, in Python's integers."""
    block = 0
    while True:
        block += 1
        c0, c1, c2, c3 = block % WORD, block // WORD, index, stream
        k0, k1 = seed % WORD, seed // WORD
        for _ in range(10):
            high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, WORD)
            high1, low1 = divmod(0xCA5A826395121157 * c2, WORD)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) % WORD, (k1 + 0xBB67AE8584CAA73B) % WORD
        yield from (c0, c1, c2, c3)


def test_the_numbers_of_the_streams_never_change() -> None:
    assert dict(Stream.__members__) == {
        "WEIGHTS": 1,
        "ROW_ORDER": 2,
        "TEST_SPLIT": 3,
        "VALIDATION_SPLIT": 4,
        "OUT_OF_DISTRIBUTION": 5,
        "GRADIENT_CHECK": 6,
        "FINGERPRINT": 7,
    }
    assert len(set(Stream)) == len(Stream.__members__)


def test_no_two_streams_share_an_output() -> None:
    drawn = [
        number
        for seed in (0, 1, WORD, WORD**2 - 1)
        for stream in Stream
        for index in (0, 1, 2, 3, WORD - 1)
        for number in RandomStream(seed, stream, index).raw(8).tolist()
    ]
    assert len(set(drawn)) == len(drawn)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, WORD**2 - 1),
    stream=st.sampled_from(Stream),
    index=st.integers(0, WORD - 1),
)
def test_outputs_are_those_of_philox(seed: int, stream: Stream, index: int) -> None:
    # Seed, stream and index enter the key and the counter whole, so different ones never meet.
    expected = [number for number, _ in zip(philox(seed, stream, index), range(9), strict=False)]
    drawn = RandomStream(seed, stream, index)
    assert [*drawn.raw(2).tolist(), *drawn.raw(7).tolist()] == expected


@pytest.mark.parametrize(
    ("seed", "index", "message"),
    [
        (-1, 0, "seed is -1"),
        (WORD**2, 0, "seed is 34"),
        (0, -1, "stream index is -1"),
        (0, WORD, "stream index is 18"),
    ],
)
def test_a_seed_or_an_index_out_of_range_is_refused(seed: int, index: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RandomStream(seed, Stream.WEIGHTS, index)


def test_no_other_module_makes_random_numbers() -> None:
    root = Path(sumgrad.__file__).parent
    others = [
        path
        for package in ("model", "cluster", "jobs")
        for path in (root / package).rglob("*.py")
        if path.name != "random_streams.py"
    ]
    assert len(others) > 100
    for path in others:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
            assert not {"default_rng", "Philox", "Generator", "SeedSequence"} & set(names), path


def test_uniform_numbers_are_the_top_53_bits() -> None:
    drawn = RandomStream(3, Stream.WEIGHTS).uniform((50, 40))
    raw = RandomStream(3, Stream.WEIGHTS).raw(2000).tolist()
    assert drawn.shape == (50, 40)
    assert drawn.ravel().tolist() == [(number >> 11) / 2**53 for number in raw]


@pytest.mark.parametrize("high", [1, 2, 7, 1000, 2**32])
def test_whole_numbers_lie_below_the_limit(high: int) -> None:
    drawn = RandomStream(3, Stream.WEIGHTS).integers(high, (20, 10))
    raw = RandomStream(3, Stream.WEIGHTS).raw(200).tolist()
    assert drawn.shape == (20, 10)
    assert drawn.ravel().tolist() == [(number >> 32) * high >> 32 for number in raw]


@pytest.mark.parametrize("high", [0, -1, 2**32 + 1])
def test_a_limit_that_cannot_be_drawn_below_is_refused(high: int) -> None:
    with pytest.raises(OptionError, match=f"the upper limit is {high}"):
        RandomStream(0, Stream.WEIGHTS).integers(high, 1)


def test_signs_are_minus_one_or_one() -> None:
    drawn = RandomStream(0, Stream.GRADIENT_CHECK).signs((30, 40))
    assert drawn.shape == (30, 40)
    assert set(drawn.ravel().tolist()) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 0.1


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 255, 256, 257])
def test_a_permutation_has_every_number_once(count: int) -> None:
    drawn = RandomStream(1, Stream.ROW_ORDER).permutation(count)
    assert sorted(drawn.tolist()) == list(range(count))


def test_permutations_sort_the_random_words() -> None:
    drawn = RandomStream(1, Stream.ROW_ORDER).permutations(20, 30)
    words = RandomStream(1, Stream.ROW_ORDER).raw(600).reshape(20, 30)
    # 30 numbers take 5 bits.
    np.testing.assert_array_equal(drawn, np.argsort(words >> np.uint64(5), axis=1, kind="stable"))


def test_all_orders_are_equally_likely() -> None:
    drawn = RandomStream(2, Stream.ROW_ORDER).permutations(24_000, 4)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_normal_numbers_have_the_moments_of_the_distribution() -> None:
    z = RandomStream(0, Stream.WEIGHTS).normal((200, 1000))
    assert abs(z.mean()) < 0.01
    assert z.var() == pytest.approx(1, abs=0.01)
    assert (z**3).mean() == pytest.approx(0, abs=0.03)
    assert (z**4).mean() == pytest.approx(3, abs=0.06)


def test_normal_numbers_do_not_depend_on_how_many_are_drawn_at_once() -> None:
    whole = RandomStream(0, Stream.WEIGHTS).normal(20_000)
    pieces = RandomStream(0, Stream.WEIGHTS)
    np.testing.assert_array_equal(whole, np.concatenate([pieces.normal(7), pieces.normal(19_993)]))


DRAW = """
import hashlib
from sumgrad.model.random_streams import RandomStream, Stream
stream = RandomStream(2026, Stream.WEIGHTS, 3)
drawn = [stream.uniform(999), stream.normal(100_000), stream.integers(10, 999)]
drawn += [stream.permutation(9_999)]
print(hashlib.sha256(b"".join(numbers.tobytes() for numbers in drawn)).hexdigest())
"""
#: The bits of every kind of number; they may change only with a new major version.
BITS = "82a0007a7ff22784be01a4024db4d58260e8a6064d2f59b462feae77301a4f5e"


@pytest.mark.parametrize("disabled", ["", "X86_V4", "X86_V3 X86_V4"])
def test_the_bits_do_not_depend_on_the_processor(
    disabled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", disabled)
    drawn = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRAW], capture_output=True, text=True, check=True
    )
    assert drawn.stdout.strip() == BITS
