"""YAML is parsed strictly and safely: limits, duplicate keys, YAML 1.2 numbers."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.support.yaml import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_yaml
from tests.fuzzing import cases, only


def test_values_and_their_lines() -> None:
    tree = parse_yaml("a: 1\nb:\n  - x: true\n  - {y: 2.5}\n", "f.yaml")
    assert tree.value == {"a": 1, "b": [{"x": True}, {"y": 2.5}]}
    assert tree.lines[("b",)] == 2
    assert tree.lines[("b", 0, "x")] == 3
    assert tree.lines[("b", 1, "y")] == 4


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", "0.001", ".001"])
def test_numbers_with_exponents_are_numbers(text: str) -> None:
    assert parse_yaml(text, "f").value == 0.001


def test_a_leading_zero_is_ignored() -> None:
    assert parse_yaml("010", "f").value == 10


@pytest.mark.parametrize(
    "text", ["e3", "1e", "v1e-3", "no", "yes", "on", "12:30", "2024-01-01", "1_000"]
)
def test_yaml_1_1_values_stay_texts(text: str) -> None:
    assert parse_yaml(text, "f").value == text


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    with pytest.raises(SpecError, match=r"f.yaml, line 3: the key 'a' is given twice"):
        parse_yaml("a: 1\nb: 2\na: 3\n", "f.yaml")


def test_an_error_of_syntax_names_the_line() -> None:
    with pytest.raises(SpecError, match=r"f.yaml, line 2: not YAML"):
        parse_yaml("a: 1\n  b: [\n", "f.yaml")


def test_expanding_aliases_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SpecError, match="too deeply or too large"):
        parse_yaml("\n".join(lines), "bomb.yaml")


def test_an_alias_to_itself_is_refused() -> None:
    with pytest.raises(SpecError, match="too deeply or too large"):
        parse_yaml("a: &a [*a]", "f.yaml")


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system ['true']", "a: !custom 1", "!!binary x", "? [a]\n: 1"],
)
def test_tags_and_odd_keys_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_yaml(text, "f.yaml")


def test_a_file_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(SpecError, match="larger than 1 MiB"):
        parse_yaml("x" * (1 << 20 | 1), "f.yaml")


@pytest.mark.parametrize("part", ["[", "- ", "[],"])
def test_a_mebibyte_is_refused_within_seconds(part: str) -> None:
    text = ("" if part.strip() in "-?&a" else "[") + part * ((1 << 20) // len(part) - 1)
    began = time.process_time()
    with pytest.raises(SpecError):
        parse_yaml(text, "f.yaml")
    assert time.process_time() - began < 10


def test_two_documents_are_refused() -> None:
    with pytest.raises(SpecError):
        parse_yaml("a: 1\n---\nb: 2\n", "f.yaml")


@cases(1000)
@given(st.text(alphabet="abc:-[]{}&*!|>#'\" \n\t\\0123.e?%@", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with only(SpecError):
        parse_yaml(text, "f.yaml")


def test_the_limits_are_exact() -> None:
    assert len(parse_yaml("x" * MAX_BYTES, "f").value) == MAX_BYTES
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_yaml(deepest, "f").value
    with pytest.raises(SpecError, match="too deeply"):
        parse_yaml(f"[[{deepest}]]", "f")
    items = ["a"] * (MAX_NODES - 1)
    assert parse_yaml(f"[{', '.join(items)}]", "f").value == items
    with pytest.raises(SpecError, match="too large"):
        parse_yaml(f"[{', '.join(items)}, b]", "f")


def test_a_key_without_a_line_has_the_line_of_its_section() -> None:
    tree = parse_yaml("a: 1\nb:\n  c: 2\n", "f")
    assert (tree.line_of(("b", "c")), tree.line_of(("b", "x", 0)), tree.line_of(())) == (3, 2, None)
