"""What sumgrad logs becomes lines for the user."""

import logging
import sys

import pytest

from sumgrad.jobs.support.logs import logs_through, show_logs

_logger = logging.getLogger("sumgrad.jobs.anything")


def test_logs_go_to_stderr_with_their_level_and_without_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with show_logs():
        _logger.info("reading %s", "rows.csv")
        _logger.warning("http://me:s3cr3t@tracking does not answer")
        _logger.debug("a message below the level")
    assert capsys.readouterr() == (
        "",
        "reading rows.csv\nWARNING: http://***@tracking does not answer\n",
    )


def test_logs_go_through_an_active_display(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with show_logs():
        with logs_through(lines.append):
            _logger.info("epoch 1")
        _logger.info("done")
    assert lines == ["epoch 1"]
    assert capsys.readouterr().err == "done\n"


def test_nothing_is_written_outside_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with show_logs():
        pass
    _logger.info("unseen")
    assert capsys.readouterr().err == ""


def test_without_stderr_nothing_is_written_on_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with show_logs(), monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        _logger.info("unseen")
    assert capsys.readouterr() == ("", "")
