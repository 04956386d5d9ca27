from __future__ import annotations

from pathlib import Path

import pytest

from napari_comir_search.state import log


def test_failures_are_written_to_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "log_path", lambda: tmp_path / "logs" / "plugin.log")
    log.open_log()
    log.open_log()  # twice is once
    log.LOGGER.error("%s", "a.tif is empty")
    log.close_log()
    lines = (tmp_path / "logs" / "plugin.log").read_text().splitlines()
    assert len(lines) == 1 and lines[0].endswith("ERROR a.tif is empty")


def test_without_a_place_to_write_there_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(log, "log_path", lambda: tmp_path / "file" / "plugin.log")
    log.open_log()
    assert not log.LOGGER.handlers
