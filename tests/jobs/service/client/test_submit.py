"""Handing a job in: what is sent, what is refused, and only once."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import DataNotFound, ServiceUnreachable, SpecError, SubmissionError
from sumgrad.jobs.service import versions
from sumgrad.jobs.service.client import submit as submit_module
from sumgrad.jobs.service.client.data_paths import Upload
from sumgrad.jobs.service.client.expectation import ANSWER_KEY, answer_digest, expect_unchanged
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.sending import ENTRYPOINT
from sumgrad.jobs.service.client.submit import (
    DIGEST_KEY,
    Code,
    Submission,
    Submitted,
    dry_run_lines,
    expect_code,
    prepare_submission,
    submit,
)
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.service.manifest import JobManifest
from sumgrad.jobs.service.versions import INSTALL_HINT, Versions
from sumgrad.jobs.spec.loader import LoadedSpec, example_names, load_spec
from sumgrad.jobs.spec.schema import JobSpec
from tests.fuzzing import cases
from tests.jobs.service.stand_ins import ADDRESS, FakeRayJobsClient, attempt

HERE = Versions.here()
CLUSTER = Cluster(ADDRESS, "lab")


def prepared(*overrides: str, job_id: str | None = "digits-1", spec: str = "digits") -> Submission:
    return prepare_submission(spec, overrides, job_id=job_id)


def said(sent_job: Submission) -> dict[str, Any]:
    """What the cluster will read."""
    path = Path("sent.yaml")
    path.write_text(sent_job.request.spec_yaml or "")
    return load_spec(str(path), environment=False).spec.model_dump(exclude_unset=True)


def job_file(**keys: object) -> str:
    layers = [{"units": 10, "activation": "softmax"}]
    minimal: dict[str, object] = {"name": "a", "data": {"train": "digits"}}
    value = minimal | {"model": {"layers": layers}} | keys
    Path("job.yaml").write_text(yaml.safe_dump(value))
    return "job.yaml"


class Notes(list[str]):
    """Lines that were told."""

    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all of our own code takes a while, and gives the same each time."""
    monkeypatch.setattr(versions, "source_digest", lambda: HERE.code)


# What is sent


def test_only_what_its_owner_said_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cr3t@here:5000")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cr3t")
    sent_job = prepared("cluster.workers=2", spec=job_file(seed=3))
    assert said(sent_job) == {
        "name": "a",
        "seed": 3,
        "data": {"train": "digits"},
        "model": {"layers": ({"units": 10, "activation": "softmax"},)},
        "cluster": {"workers": 2},
    }
    server = FakeRayJobsClient()
    submit(sent_job, server, pytest.fail)
    (sent,) = server.memory.sent
    everything = json.dumps([*map(str, sent.files.values()), dict(sent.metadata), sent.entrypoint])
    for mine in ("s3cr3t", "here:5000", str(Path.cwd()), str(Path.home()), "sqlite", "MLFLOW"):
        assert mine not in everything


@pytest.mark.parametrize("name", [name for name in example_names() if name != "mnist"])
def test_the_cluster_reads_the_spec_that_was_meant(name: str) -> None:
    meant = load_spec(name, environment=False).spec
    path = Path("sent.yaml")
    path.write_text(prepared(spec=name).request.spec_yaml or "")
    there = load_spec(str(path), environment=False).spec
    assert there == meant
    assert there.model_dump(exclude_unset=True) == meant.model_dump(exclude_unset=True)


TEXTS = st.one_of(
    st.sampled_from(
        [
            *("1e5", "08", "010", "1_000", "0x1f", "+1", "-", "1e-3", ".5", ".nan", "-.inf"),
            *("no", "yes", "on", "null", "~", "true", "1:30", "2026-01-01", "=", "<<", "!x", "&a"),
            *("*a", "[", "{}", "# x", "a: b", "'", '"', "\n", " x ", "ü", "\u2028", "data/x"),
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8),
)


@cases(100)
@given(
    label=TEXTS, positive=TEXTS | st.integers(), features=st.lists(TEXTS, min_size=1, unique=True)
)
def test_every_text_comes_across_as_it_was(
    tmp_path: Path, label: str, positive: str | int, features: list[str]
) -> None:
    data: dict[str, object] = {"train": "digits", "label": label, "positive": positive}
    data |= {"features": [each for each in features if each != label] or ["other"]}
    model = {"layers": [{"units": 1, "activation": "sigmoid"}]}
    meant = JobSpec.model_validate({"name": "a", "data": data, "model": model})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            submit_module, "load_spec", lambda *_, **__: LoadedSpec(meant, "job.yaml", None)
        )
        prepared = prepare_submission("job.yaml", [])
    path = tmp_path / "job.yaml"
    path.write_text(prepared.request.spec_yaml or "", encoding="utf-8", newline="")
    assert load_spec(str(path), environment=False).spec == meant


@pytest.mark.parametrize("name", ["1e5", "08", "1.5", "2026-01-01"])
def test_a_name_that_looks_like_a_number_stays_a_name(name: str) -> None:
    sent_job = prepared(f"name='{name}'")
    assert said(sent_job)["name"] == sent_job.name == name


def test_an_address_of_this_machine_is_left_out() -> None:
    for address in ("local", "auto"):
        assert "address" not in said(prepared(f"cluster.address={address}")).get("cluster", {})


@pytest.mark.parametrize("address", ["inline", "head:6379"])
def test_another_address_than_the_clusters_is_refused(address: str) -> None:
    with pytest.raises(SubmissionError, match=f"not on '{address}'") as caught:
        prepared(f"cluster.address={address}")
    assert "--cluster" in caught.value.hint


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "sqlite:////tmp/x.db", "sqlite+pysqlite:///x.db"]
)
def test_a_database_of_this_machine_is_refused(uri: str) -> None:
    with pytest.raises(SubmissionError, match="is a file of this machine"):
        prepared(f"tracking.uri={uri}")


@pytest.mark.parametrize(
    "uri",
    [
        *("http://me:s3cr3t@mlflow:5000", "http://s3cr3t@mlflow", "http://mlflow/?token=s3cr3t"),
        *("postgresql://me:s3cr3t@db/x", "postgresql://db/x?user=me&password=s3cr3t"),
        "http://***@mlflow:5000",
    ],
)
def test_a_password_does_not_travel(uri: str) -> None:
    with pytest.raises(SubmissionError, match="has a password") as caught:
        prepared(f"tracking.uri='{uri}'")
    assert "s3cr3t" not in caught.value.message + caught.value.hint
    assert "MLFLOW_TRACKING_PASSWORD" in caught.value.hint


@pytest.mark.parametrize("uri", ["./mlruns", "file:///mlruns", "http://host:0", "http://[x"])
def test_a_store_that_is_none_is_refused_here(uri: str) -> None:
    with pytest.raises(SpecError, match=r"tracking\.uri"):
        prepared(f"tracking.uri={uri}")


def test_another_mlflow_is_passed_on() -> None:
    assert said(prepared("tracking.uri=http://other:5000"))["tracking"] == {
        "uri": "http://other:5000",
        **load_spec("digits", environment=False).spec.tracking.model_dump(
            exclude_unset=True, exclude={"uri"}
        ),
    }


@pytest.mark.parametrize(
    ("override", "kind"),
    [
        ("seed=x", SpecError),
        ("sed=1", SpecError),
        ("seed", SpecError),
        ("data.label=[]", SpecError),
        ("data.train=gone.csv", SubmissionError),
        ("data.train=s3://bucket/x", SubmissionError),
    ],
)
def test_a_job_that_cannot_run_is_refused_here(override: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        prepared(override)


@pytest.mark.parametrize("job_id", ["", "ab", "../x", "a.2", "a b", "x" * 64])
def test_an_id_that_is_none_is_refused(job_id: str) -> None:
    with pytest.raises(SubmissionError, match="cannot be a job's id"):
        prepared(job_id=job_id)


def test_an_id_is_made_from_the_name() -> None:
    first, second = (prepared("name=My.Digits", job_id=None) for _ in range(2))
    assert first.request.job_id.startswith("my-digits-")
    assert first.request.job_id != second.request.job_id


def test_data_goes_along_only_if_asked() -> None:
    Path("rows.csv").write_text("x,label\n1,a\n")
    spec = job_file(data={"train": "rows.csv", "test": "file:///data/test.csv"})
    with pytest.raises(SubmissionError, match="is on this machine"):
        prepared(spec=spec)
    sent_job = prepare_submission(spec, [], job_id="digits-1", upload=True)
    assert said(sent_job)["data"] == {
        "train": "data/train/rows.csv",
        "test": "file:///data/test.csv",
    }
    server = FakeRayJobsClient()
    submit(sent_job, server, pytest.fail)
    (sent,) = server.memory.sent
    assert sent.files["data/train/rows.csv"] == b"x,label\n1,a\n"
    assert sorted(sent.files) == ["data/train/rows.csv", "job.json"]
    with pytest.raises(DataNotFound):
        prepare_submission(spec, ["data.train=gone.csv"], upload=True)


def test_the_metadata_name_the_job() -> None:
    sent_job = prepared()
    assert sent_job.metadata == {
        JOB_KEY: "digits-1",
        NAME_KEY: "digits",
        ATTEMPT_KEY: "1",
        DIGEST_KEY: sent_job.digest,
        "sumgrad.version": HERE.sumgrad,
    }


def test_a_dry_run_asks_nobody_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        pytest.fail("a cluster was asked")

    monkeypatch.setattr("urllib.request.urlopen", asked)
    monkeypatch.setattr("socket.socket.connect", asked)
    before = sorted(Path.cwd().parent.rglob("*"))
    sent_job = prepared("seed=5")
    lines, facts = dry_run_lines(sent_job, CLUSTER), sent_job.as_json(CLUSTER)
    assert sorted(Path.cwd().parent.rglob("*")) == before
    assert lines[0] == f"would send to lab ({ADDRESS}):"
    assert "  id         digits-1" in lines
    assert "    seed: 5" in lines
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["id"], facts["cluster"], facts["spec"]["seed"]) == ("digits-1", ADDRESS, 5)


# Once for each id


def test_a_job_is_handed_in() -> None:
    server = FakeRayJobsClient()
    sent = submit(prepared(), server, pytest.fail)
    assert sent == Submitted("digits-1", "digits-1", is_new=True)
    (found,) = server.memory.sent
    assert (found.entrypoint, found.modules) == (ENTRYPOINT, ())
    assert found.request["job_id"] == "digits-1"
    assert found.request["attempt"] == 1
    assert found.request["has_code"] is False


def test_the_same_job_twice_is_as_once() -> None:
    server = FakeRayJobsClient()
    submit(prepared(), server, pytest.fail)
    assert submit(prepared(), server, pytest.fail) == Submitted("digits-1", "digits-1", False)
    assert len(server.memory.sent) == 1


@pytest.mark.parametrize("other", ["seed=9", "optimizer.eta=0.25", "name=other"])
def test_another_job_under_the_same_id_is_refused(other: str) -> None:
    server = FakeRayJobsClient()
    submit(prepared(), server, pytest.fail)
    with pytest.raises(SubmissionError, match="has a job 'digits-1' already"):
        submit(prepared(other), server, pytest.fail)
    assert len(server.memory.sent) == 1


def test_other_data_make_another_job() -> None:
    path = Path("rows.csv")
    path.write_text("x,label\n1,a\n")
    spec = job_file(data={"train": "rows.csv"})
    first = prepare_submission(spec, [], upload=True).digest
    assert prepare_submission(spec, [], upload=True).digest == first
    path.write_text("x,label\n2,a\n")
    assert prepare_submission(spec, [], upload=True).digest != first


def test_the_names_of_files_count() -> None:
    Path("a").write_text("x")
    one, two = (
        replace(prepared(), upload=Upload({name: Path("a")}, 1)) for name in ("data/a", "data/b")
    )
    assert one.digest != two.digest


def test_who_was_less_quick_with_the_same_job_is_content() -> None:
    server, sent_job = FakeRayJobsClient(), prepared()

    def quicker(name: str) -> None:
        server.memory.refuses = lambda _: None
        submit(prepared(), server, pytest.fail)
        raise ServiceUnreachable("the cluster answers: job digits-1 already exists")

    server.memory.refuses = quicker
    assert submit(sent_job, server, pytest.fail).submission_id == "digits-1"
    assert len(server.memory.sent) == 1


def test_who_was_less_quick_with_another_job_is_told() -> None:
    server = FakeRayJobsClient()

    def quicker(name: str) -> None:
        server.memory.refuses = lambda _: None
        submit(prepared("seed=9"), server, pytest.fail)
        raise ServiceUnreachable("the cluster answers: job digits-1 already exists")

    server.memory.refuses = quicker
    with pytest.raises(SubmissionError, match="already, which is another one"):
        submit(prepared(), server, pytest.fail)


def test_a_refusal_is_told() -> None:
    server = FakeRayJobsClient()

    def refuse(name: str) -> None:
        raise ServiceUnreachable("the disk is full")

    server.memory.refuses = refuse
    with pytest.raises(ServiceUnreachable, match="the disk is full"):
        submit(prepared(), server, pytest.fail)
    server.memory.is_away = True
    with pytest.raises(ServiceUnreachable, match="no cluster answers"):
        submit(prepared(), server, pytest.fail)


def test_a_large_upload_has_more_time() -> None:
    server = FakeRayJobsClient()
    submit(replace(prepared(), upload=Upload({}, 60_000_000)), server, pytest.fail)
    assert server.memory.sent[0].seconds > 300


# Versions


def there(**changes: object) -> FakeRayJobsClient:
    server = FakeRayJobsClient()
    server.memory.versions = replace(HERE, **changes)  # type: ignore[arg-type]
    return server


def libraries(**changes: str) -> Mapping[str, Any]:
    return {"libraries": HERE.libraries | changes}


MODULES = ("model", "cluster", "jobs", f"sumgrad-{HERE.sumgrad}.dist-info")


@pytest.mark.parametrize(
    ("whose", "theirs", "travels", "notes"),
    [
        ("auto", HERE.code, False, 0),
        ("auto", "another", True, 1),
        ("auto", "none", True, 1),
        ("cluster", HERE.code, False, 0),
        ("cluster", "another", False, 1),
        ("local", HERE.code, True, 0),
        ("local", "another", True, 0),
        ("local", "none", True, 0),
    ],
)
def test_whose_code_computes(whose: Code, theirs: str, travels: bool, notes: int) -> None:
    server, told = there(code=theirs), Notes()
    submit(prepared(), server, told, code=whose)
    (sent,) = server.memory.sent
    assert sent.modules == (MODULES if travels else ())
    assert sent.request["has_code"] is travels
    assert len(told) == notes


@pytest.mark.parametrize(
    ("whose", "theirs", "expected"),
    [
        ("auto", HERE.code, HERE.code),
        ("auto", "another", HERE.code),
        ("local", "another", HERE.code),
        ("cluster", "another", "another"),
    ],
)
def test_a_job_carries_what_it_has_to_find(whose: Code, theirs: str, expected: str) -> None:
    server = there(code=theirs)
    submit(prepared(), server, lambda _: None, code=whose)
    (sent,) = server.memory.sent
    assert sent.request["expected"] == replace(HERE, code=expected).as_json()
    assert sent.metadata[ANSWER_KEY] == answer_digest(replace(HERE, code=theirs))


def test_any_version_will_do_where_that_was_said() -> None:
    server = there(python="3.99")
    submit(prepared(), server, lambda _: None, allow_version_mismatch=True)
    assert server.memory.sent[0].request["expected"] is None


def test_a_cluster_that_has_changed_is_asked_anew() -> None:
    server = there(code="another")
    submit(prepared(), server, lambda _: None)
    submit(prepared(job_id="digits-2"), server, lambda _: None)
    assert [sent.request["has_code"] for sent in server.memory.sent] == [True, True]
    server.memory.versions = HERE
    submit(prepared(job_id="digits-3"), server, lambda _: None)
    assert server.memory.sent[-1].request["has_code"], "nobody knows it yet"
    with pytest.raises(ServiceUnreachable) as caught:
        expect_unchanged(replace(HERE, code="another"), HERE)
    server.memory.attempts["digits-3"] = replace(
        server.memory.attempts["digits-3"],
        state="FAILED",
        message=f"exit code 3, last available logs:\nerror: {caught.value.message}\n",
    )
    submit(prepared(job_id="digits-4"), server, pytest.fail)
    assert not server.memory.sent[-1].request["has_code"]
    server.memory.calls.clear()
    submit(prepared(job_id="digits-5"), server, pytest.fail)
    assert not any("probe" in call for call in server.memory.calls), "the new answer is kept"


def test_a_cluster_without_sumgrad_cannot_use_its_own() -> None:
    server = there(code="none", sumgrad="none")
    with pytest.raises(ServiceUnreachable, match="no sumgrad of its own") as caught:
        submit(prepared(), server, pytest.fail, code="cluster")
    assert "--code auto" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"python": "3.99"}, "Python"),
        (libraries(numpy="1.0"), "numpy"),
        (libraries(ray="1.0"), "ray"),
    ],
)
def test_versions_that_must_agree(changes: dict[str, Any], told: str) -> None:
    server = there(**changes)
    with pytest.raises(ServiceUnreachable, match=f"other versions: {told} .* here") as caught:
        submit(prepared(), server, pytest.fail)
    assert "--allow-version-mismatch" in caught.value.hint
    assert not server.memory.sent
    notes = Notes()
    submit(prepared(), server, notes, allow_version_mismatch=True)
    assert len(server.memory.sent) == 1
    assert notes[0].startswith(f"versions differ: {told}")


@pytest.mark.parametrize("name", ["mlflow", "pyarrow"])
def test_versions_that_may_differ_are_told(name: str) -> None:
    server, notes = there(**libraries(**{name: "0.1"})), Notes()
    submit(prepared(), server, notes)
    assert notes == [f"versions differ: {name} {HERE.libraries[name]} here, 0.1 there"]
    assert len(server.memory.sent) == 1


@pytest.mark.parametrize("allow_version_mismatch", [False, True])
@pytest.mark.parametrize("name", ["mlflow", "numpy", "pyarrow"])
def test_a_cluster_that_lacks_a_library(name: str, allow_version_mismatch: bool) -> None:
    server = there(**libraries(**{name: "none"}))
    with pytest.raises(ServiceUnreachable, match=f"lack {name}") as caught:
        submit(prepared(), server, pytest.fail, allow_version_mismatch=allow_version_mismatch)
    assert caught.value.hint.endswith(f" there: {INSTALL_HINT}")
    assert not server.memory.sent


def test_who_has_the_job_already_is_not_asked_for_versions() -> None:
    server = FakeRayJobsClient()
    submit(prepared(), server, pytest.fail)
    server.memory.versions = replace(HERE, python="2.7")
    server.memory.calls.clear()
    assert not submit(prepared(), server, pytest.fail).is_new
    assert server.memory.calls == ["describe", "attempt digits-1", "attempts"]


def test_the_newest_attempt_of_a_job_is_given() -> None:
    server = FakeRayJobsClient()
    first = submit(prepared(), server, pytest.fail)
    server.memory.attempts["digits-1~2"] = attempt("digits-1~2", number=2)
    again = submit(prepared(), server, pytest.fail)
    assert (first.submission_id, again.submission_id) == ("digits-1", "digits-1~2")


def test_an_id_that_mlflow_knows_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunView("uri", "ab", "FINISHED")
    monkeypatch.setattr(submit_module, "look_up_runs", lambda *_: {"digits-1": run})
    server = FakeRayJobsClient()
    with pytest.raises(SubmissionError, match="there was a job 'digits-1' before") as caught:
        submit(prepared(), server, pytest.fail)
    assert "choose another --id" in caught.value.hint
    assert f"sumgrad resume digits-1 --cluster {ADDRESS}" in caught.value.hint
    assert not server.memory.attempts


def test_whose_code_it_is_has_three_answers() -> None:
    for text in ("auto", "cluster", "local"):
        assert expect_code(text) == text
    for text in ("", "Auto", "here"):
        with pytest.raises(SubmissionError, match="auto, cluster, local"):
            expect_code(text)


def test_what_was_sent_along_is_read_there(tmp_path: Path) -> None:
    Path("rows.csv").write_text("x,label\n1,a\n")
    sent_job = prepare_submission(
        job_file(data={"train": "rows.csv"}), [], job_id="digits-1", upload=True
    )
    server = FakeRayJobsClient()
    submit(sent_job, server, pytest.fail)
    (tmp_path / "job.json").write_bytes(server.memory.sent[0].files["job.json"])
    assert JobManifest.read(tmp_path) == replace(sent_job.request, expected=HERE)
