"""Versions of Python, sumgrad and libraries, and what a job does where they differ."""

import sys
from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sumgrad.jobs.errors import VersionMismatch
from sumgrad.jobs.service.versions import (
    INSTALL_HINT,
    VERSION_MISMATCH,
    Versions,
    check_versions,
)
from sumgrad.jobs.support.source_digest import source_digest

HERE = Versions(
    "0.1.0", "ab", "3.11", {"ray": "2.60.0", "numpy": "2.4.6", "mlflow": "3.17.2", "pyarrow": "25"}
)


def with_library(name: str, version: str) -> Versions:
    return replace(HERE, libraries=HERE.libraries | {name: version})


def test_versions_of_this_process() -> None:
    here = Versions.here()
    assert here.sumgrad == metadata.version("sumgrad")
    assert here.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert here.libraries == {
        name: metadata.version(name) for name in ("ray", "numpy", "mlflow", "pyarrow")
    }
    assert here.code == source_digest()
    assert here.missing == []
    assert here.differences(here) == {}


def test_what_is_not_installed_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert Versions.here().missing == ["ray", "numpy", "mlflow", "pyarrow"]
    assert Versions.here().sumgrad == "none"


@pytest.mark.parametrize("value", [None, 3, [], "x", {}, {"libraries": 3}, {"libraries": ["ray"]}])
def test_anything_else_is_no_versions(value: Any) -> None:
    sound: dict[str, Any] = TypeAdapter(Versions).dump_python(HERE)
    assert TypeAdapter(Versions).validate_python(sound) == HERE
    with pytest.raises(ValidationError):
        TypeAdapter(Versions).validate_python(
            sound | value if isinstance(value, dict) and value else value
        )


def test_differences_name_both_versions_and_leave_out_sumgrads_own() -> None:
    there = Versions("0.2.0", "cd", "3.12", {"ray": "2.60.0"} | HERE.libraries | {"more": "1"})
    assert HERE.differences(there) == {"Python": "Python 3.11 here, 3.12 on the cluster"}
    del there.libraries["numpy"]
    assert HERE.differences(there)["numpy"] == "numpy 2.4.6 here, none on the cluster"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (replace(HERE, python="3.12"), "Python 3.11 here, 3.12 on the cluster"),
        (with_library("ray", "2.59.0"), "ray 2.60.0 here, 2.59.0 on the cluster"),
        (with_library("numpy", "2.0"), "numpy 2.4.6 here, 2.0 on the cluster"),
        (replace(HERE, code="cd"), r"sumgrad 0.1.0 \(ab\) here, 0.1.0 \(cd\) on the cluster"),
    ],
)
def test_a_difference_that_may_change_weights_is_refused_unless_allowed(
    found: Versions, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(VersionMismatch, match=f"{VERSION_MISMATCH}: {text}") as caught:
        check_versions(HERE, found, has_code=True)
    assert "--allow-version-mismatch" in caught.value.hint
    assert not caplog.messages
    check_versions(HERE, found, has_code=True, allow_mismatch=True)
    (message,) = caplog.messages
    assert message.startswith("versions differ: ")


def test_every_difference_is_named_at_once() -> None:
    found = replace(with_library("numpy", "2.0"), python="3.12", code="cd")
    with pytest.raises(VersionMismatch, match=r"Python 3.11 .*; numpy 2.4.6 .*; sumgrad 0.1.0 "):
        check_versions(HERE, found, has_code=True)


@pytest.mark.parametrize(
    ("found", "has_code", "text"),
    [
        (with_library("mlflow", "3.18"), True, "mlflow 3.17.2 here"),
        (with_library("pyarrow", "20"), True, "pyarrow 25 here"),
        (replace(HERE, code="cd"), False, "sumgrad 0.1.0 (ab) here"),
    ],
)
def test_other_differences_are_logged(
    found: Versions, has_code: bool, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_versions(HERE, found, has_code=has_code)
    (message,) = caplog.messages
    assert message.startswith(f"versions differ: {text}")


def test_the_same_versions_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    check_versions(HERE, HERE, has_code=True)
    check_versions(HERE, replace(HERE), has_code=False)
    assert not caplog.messages


@pytest.mark.parametrize("name", ["ray", "numpy", "mlflow", "pyarrow"])
def test_a_library_that_is_not_installed_is_refused_in_any_case(name: str) -> None:
    with pytest.raises(VersionMismatch, match=f"{VERSION_MISMATCH}: {name} not") as caught:
        check_versions(HERE, with_library(name, "none"), has_code=True, allow_mismatch=True)
    assert caught.value.hint == INSTALL_HINT
