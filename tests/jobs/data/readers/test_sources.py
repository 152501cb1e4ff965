"""The files of a source, and which of them are read."""

import logging
from pathlib import Path

import numpy as np
import pytest

from sumgrad.jobs.data.dataset import locate
from sumgrad.jobs.data.readers.guard import stoppable
from sumgrad.jobs.data.readers.sources import find_table_files, read_dataset
from sumgrad.jobs.errors import DataError, DataNotFound
from tests.jobs.data.cases import write_csv

LABEL = ("label",)


def names(source: Path, folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_table_files(source, str(source))]


@pytest.mark.timeout(20)
def test_a_glob_enters_each_folder_once_through_links(tmp_path: Path) -> None:
    inner = tmp_path / "data" / "inner"
    inner.mkdir(parents=True)
    for name in ("a.csv", "inner/b.csv"):
        (tmp_path / "data" / name).touch()
    (tmp_path / "data" / ".hidden").mkdir()
    (tmp_path / "data" / ".hidden" / "c.csv").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.csv").touch()
    for number in range(3):
        (inner / f"loop{number}").symlink_to(tmp_path / "data")
    (inner / "link").symlink_to(tmp_path / "elsewhere")
    expected = ["data/a.csv", "data/inner/b.csv", "data/inner/link/d.csv"]
    assert names(tmp_path / "data" / "**" / "*.csv", tmp_path) == expected
    assert names(tmp_path / "data" / "**", tmp_path) == expected
    assert names(tmp_path / "*" / "**" / "inner" / "*.csv", tmp_path) == ["data/inner/b.csv"]
    assert names(tmp_path / "data" / "*.csv", tmp_path) == ["data/a.csv"]
    assert names(tmp_path / "data", tmp_path) == ["data/a.csv", "data/inner/b.csv"]


def test_a_home_folder_of_an_unknown_user_is_not_found() -> None:
    with pytest.raises(DataNotFound, match="there is no file or folder ~no-such-user"):
        read_dataset("~no-such-user/x.csv", "train", ("label",))


def test_a_relative_glob_starts_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "[a].csv").touch()
    assert find_table_files(Path("**/*.csv"), "**/*.csv") == [Path("in/[a].csv")]
    with pytest.raises(DataNotFound, match="no file matches"):
        find_table_files(Path("**/*.parquet"), "**/*.parquet")


def test_a_part_without_rows_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_csv(tmp_path / "a.csv", "other,columns")
    (tmp_path / "b.csv").touch()
    write_csv(tmp_path / "c.csv", "x,label", "1,2")
    write_csv(tmp_path / "d.csv", "x,label", "3,4")
    with caplog.at_level(logging.INFO, "sumgrad"):
        rows = read_dataset(str(tmp_path), "train", LABEL)
    assert rows.x.tolist() == [[1], [3]]
    assert locate(rows.spans, 1) == (str(tmp_path / "d.csv"), 1)
    assert [record.message.split("/")[-1] for record in caplog.records] == [
        f"{name}.csv has no rows and is skipped" for name in "ab"
    ]
    for name in "cd":
        write_csv(tmp_path / f"{name}.csv", "x,label")
    with pytest.raises(DataError, match=r"a\.csv: has no rows"):
        read_dataset(str(tmp_path), "train", LABEL)


class Stopped(Exception):
    """Raised by the tests' `check_stop`."""


def test_reading_stops_between_blocks_of_a_csv_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", *["1.25,2"] * 2_000_000)
    checks = 0

    def stop_at_the_third() -> None:
        nonlocal checks
        checks += 1
        if checks >= 3:
            raise Stopped

    with stoppable(stop_at_the_third), pytest.raises(Stopped):
        read_dataset(str(path), "train", LABEL)
    # The file has thirteen blocks; Arrow may read a few more before it stops.
    assert checks < 8


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_reading_stops_between_batches(tmp_path: Path, ending: str) -> None:
    import pyarrow as pa
    from pyarrow import feather, parquet

    path = tmp_path / f"rows.{ending}"
    table = pa.table({"x": np.zeros(1 << 21), "label": np.zeros(1 << 21)})
    if ending == "parquet":
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, str(path), chunksize=1 << 18)
    checks: list[int] = []

    def stop_at_the_third() -> None:
        checks.append(pa.total_allocated_bytes())
        if len(checks) == 3:
            raise Stopped

    with stoppable(stop_at_the_third), pytest.raises(Stopped):
        read_dataset(str(path), "train", LABEL)
    assert checks[-1] - checks[0] < table.nbytes


def test_a_stop_outside_of_the_context_changes_nothing(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1,2")

    def stop() -> None:
        raise Stopped

    with stoppable(stop), pytest.raises(Stopped):
        read_dataset(str(path), "train", LABEL)
    assert read_dataset(str(path), "train", LABEL).count == 1
