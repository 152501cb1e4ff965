"""Data of a submitted job: refused, uploaded, or read on the cluster."""

import gzip
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.errors import DataNotFound, SubmissionError
from sumgrad.jobs.service.client import data_paths
from sumgrad.jobs.service.client.data_paths import prepare_data
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.schema import JobSpec


def spec(train: str, **more: object) -> JobSpec:
    loaded = load_spec("digits", environment=False).spec
    data = loaded.data.model_copy(update={"train": train, "test": 0.2, "validation": None} | more)
    return loaded.model_copy(update={"data": data})


def rows(path: Path, *numbers: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x,label\n" + "".join(f"{number},a\n" for number in numbers))
    return path


def copy(files: Mapping[str, Path], folder: Path) -> None:
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)


def idx(folder: Path, head: str = "train-") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 7, 9])
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 1, 5])
    (folder / f"{head}images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (folder / f"{head}labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


@pytest.mark.parametrize("upload", [False, True])
def test_builtin_data_and_paths_on_the_cluster_are_unchanged(upload: bool) -> None:
    for source in ("digits", "file:///data/*.parquet", "file:///C:/x"):
        assert prepare_data(spec(source), upload=upload) == ({}, {})


def test_local_data_is_refused_with_an_explanation(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.csv", 1)
    with pytest.raises(SubmissionError, match="is on this machine, where the cluster") as caught:
        prepare_data(spec(str(path)), upload=False)
    assert caught.value.message.startswith(f"data.train: {path} ")
    assert "--upload" in caught.value.hint
    assert "file:///" in caught.value.hint
    with pytest.raises(SubmissionError, match=r"data\.test: gone\.csv is a local path"):
        prepare_data(spec("digits", test="gone.csv"), upload=False)


@pytest.mark.parametrize("upload", [False, True])
@pytest.mark.parametrize(
    "source",
    [
        *("s3://key:s3cr3t@bucket/x.csv", "http://me:s3cr3t@host/x.csv", "gs://bucket/x"),
        *("file://host/x.csv", "file://x.csv", "FILE:///x.csv"),
    ],
)
def test_urls_of_other_things_than_files_are_refused(source: str, upload: bool) -> None:
    with pytest.raises(SubmissionError, match=r"data\.train: .*files only") as caught:
        prepare_data(spec(source), upload=upload)
    assert "s3cr3t" not in caught.value.message


def test_a_file_is_uploaded(tmp_path: Path) -> None:
    path = rows(tmp_path / "my rows.csv", 1, 2)
    rows(tmp_path / "others.csv", 3)
    changed, upload = prepare_data(spec(str(path)), upload=True)
    assert changed == {"train": "data/train/my rows.csv"}
    assert upload == {"data/train/my rows.csv": path}


def test_each_split_has_its_own_folder() -> None:
    rows(Path("a/rows.csv"), 1)
    rows(Path("b/rows.csv"), 2)
    rows(Path("~/rows.csv").expanduser(), 3)
    sources = spec("a/rows.csv", validation="b/rows.csv", test="~/rows.csv")
    changed, upload = prepare_data(sources, upload=True)
    assert changed == {split: f"data/{split}/rows.csv" for split in ("train", "validation", "test")}
    assert upload["data/validation/rows.csv"] == Path("b/rows.csv")


def test_a_folder_is_uploaded_without_files_that_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    rows(folder / "b.csv", 2)
    rows(folder / "deep/a.csv", 1)
    for name in (".git/config.csv", ".env", "_SUCCESS", "_old/x.csv", "notes.txt", "deep/.x.csv"):
        rows(folder / name, 9)
    changed, upload = prepare_data(spec(str(folder)), upload=True)
    assert changed == {"train": "data/train"}
    assert sorted(upload) == ["data/train/b.csv", "data/train/deep/a.csv"]


@pytest.mark.parametrize("pattern", ["*.csv", "**/*.csv", "rows*", "*/x.csv", "[ab].csv", "rows/*"])
def test_a_glob_gives_the_same_rows_in_the_same_order_on_the_cluster(pattern: str) -> None:
    for number, name in enumerate(
        [
            *("b.csv", "a.csv", "rows-10.csv", "rows-9.csv", "c/x.csv", "_a/x.csv", "b/x.csv"),
            *("rows/2.csv", "rows/1.csv", "_SUCCESS.csv", "rows/_meta.csv", ".hidden.csv"),
        ]
    ):
        rows(Path("here") / name, number)
    source = f"here/{pattern}"
    changed, upload = prepare_data(spec(source), upload=True)
    job = Path("job")
    job.mkdir()
    copy(upload, job)
    assert changed == {"train": "data/train"}
    here = read_dataset(source, "train", ("label",))
    there = read_dataset(str(job / changed["train"]), "train", ("label",))
    assert here.x.tolist() == there.x.tolist()
    assert len(here.x) == len(upload)


def test_the_files_of_a_glob_keep_their_order() -> None:
    for number in range(11):
        rows(Path(f"many/{number:02}/x.csv"), number)
    _, upload = prepare_data(spec("many/*/x.csv"), upload=True)
    assert [upload[name].parent.name for name in sorted(upload)] == [
        f"{number:02}" for number in range(11)
    ]


@pytest.mark.parametrize("named", ["images", "folder"])
def test_the_labels_of_mnist_are_uploaded_with_the_images(named: str, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    idx(folder)
    (folder / "notes.txt").write_text("private")
    source = folder if named == "folder" else folder / "train-images-idx3-ubyte.gz"
    changed, upload = prepare_data(spec(str(source)), upload=True)
    job = tmp_path / "job"
    job.mkdir()
    copy(upload, job)
    found = read_dataset(str(job / changed["train"]), "train", ("label",))
    assert found.x.tolist() == [[7, 9]]
    assert sorted(file.name for file in job.rglob("*.*")) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]


@pytest.mark.parametrize("named", ["images", "folder"])
def test_only_the_files_of_a_split_are_uploaded_from_mnist(named: str, tmp_path: Path) -> None:
    for head in ("train-", "t10k-"):
        idx(tmp_path, head)
    heads = {"train": "train-", "test": "t10k-"}
    sources = {
        split: str(tmp_path / f"{head}images-idx3-ubyte.gz" if named == "images" else tmp_path)
        for split, head in heads.items()
    }
    _, upload = prepare_data(spec(**sources), upload=True)
    assert sorted(upload) == [
        f"data/{split}/{heads[split]}{name}-ubyte.gz"
        for split in ("test", "train")
        for name in ("images-idx3", "labels-idx1")
    ]


def test_a_folder_of_mnist_without_the_files_of_a_split_is_refused(tmp_path: Path) -> None:
    idx(tmp_path / "mnist")
    with pytest.raises(DataNotFound, match="has no file t10k-images"):
        prepare_data(spec("digits", test=str(tmp_path / "mnist")), upload=True)


@pytest.mark.parametrize("source", ["gone.csv", "gone/*.csv", "empty", "x[", ""])
def test_missing_data_are_refused(source: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(DataNotFound, match=r"data\.train"):
        prepare_data(spec(source or "empty/"), upload=True)


def test_too_large_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_paths, "_MAX_BYTES", 1 << 20)
    for name in ("a.csv", "b.csv"):
        rows(Path(name), 1)
    with Path("b.csv").open("ab") as file:
        file.truncate((1 << 20) - Path("a.csv").stat().st_size)
    prepare_data(spec("a.csv", test="b.csv"), upload=True)
    with Path("b.csv").open("ab") as file:
        file.truncate((1 << 20) - Path("a.csv").stat().st_size + 1)
    with pytest.raises(SubmissionError, match="at most 1 MiB") as caught:
        prepare_data(spec("a.csv", test="b.csv"), upload=True)
    assert "file:///PATH" in caught.value.hint


def test_the_home_of_an_unknown_user_is_refused() -> None:
    for upload in (False, True):
        with pytest.raises((DataNotFound, SubmissionError), match=r"data\.train"):
            prepare_data(spec("~unknown-user/x.csv"), upload=upload)
