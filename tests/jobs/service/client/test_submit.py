"""Submitting a job: what is sent, what is refused, and only once for each id."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import (
    DataNotFound,
    ServiceUnreachable,
    SpecError,
    SubmissionError,
    VersionMismatch,
)
from sumgrad.jobs.service.client import submit as submit_module
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.submit import (
    DIGEST_KEY,
    Submission,
    prepare_submission,
    submit,
)
from sumgrad.jobs.service.ids import ATTEMPT_KEY, CODE_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.service.manifest import ENTRYPOINT, JobManifest
from sumgrad.jobs.service.versions import Versions
from sumgrad.jobs.spec.loader import LoadedSpec, example_names, load_spec
from sumgrad.jobs.spec.schema import JobSpec
from tests.fuzzing import cases
from tests.jobs.service.fakes import ADDRESS, FakeRayJobsClient, attempt

HERE = Versions.here()
CLUSTER = Cluster(address=ADDRESS, name="lab")


def prepared(
    *overrides: str, job_id: str | None = "digits-1", spec: str = "digits", **options: Any
) -> Submission:
    return prepare_submission(spec, overrides, job_id=job_id, **options)


def received(submission: Submission) -> dict[str, Any]:
    """Return the keys that the cluster reads."""
    path = Path("sent.yaml")
    path.write_text(submission.manifest.spec_yaml or "")
    return load_spec(str(path), environment=False).spec.model_dump(exclude_unset=True)


def job_file(**keys: object) -> str:
    layers = [{"units": 10, "activation": "softmax"}]
    minimal: dict[str, object] = {"name": "a", "data": {"train": "digits"}}
    value = minimal | {"model": {"layers": layers}} | keys
    Path("job.yaml").write_text(yaml.safe_dump(value))
    return "job.yaml"


# What is sent


def test_only_the_keys_of_the_user_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cr3t@here:5000")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cr3t")
    submission = prepared("cluster.workers=2", spec=job_file(seed=3))
    assert received(submission) == {
        "name": "a",
        "seed": 3,
        "data": {"train": "digits"},
        "model": {"layers": ({"units": 10, "activation": "softmax"},)},
        "cluster": {"workers": 2},
    }
    client = FakeRayJobsClient()
    submit(submission, client)
    (sent,) = client.memory.sent
    everything = json.dumps([*map(str, sent.files.values()), dict(sent.metadata), sent.entrypoint])
    for private in ("s3cr3t", "here:5000", str(Path.cwd()), str(Path.home()), "sqlite", "MLFLOW"):
        assert private not in everything


@pytest.mark.parametrize("name", [name for name in example_names() if name != "mnist"])
def test_the_cluster_reads_the_same_spec(name: str) -> None:
    spec = load_spec(name, environment=False).spec
    path = Path("sent.yaml")
    path.write_text(prepared(spec=name).manifest.spec_yaml or "")
    there = load_spec(str(path), environment=False).spec
    assert there == spec
    assert there.model_dump(exclude_unset=True) == spec.model_dump(exclude_unset=True)


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
def test_every_text_arrives_unchanged(
    tmp_path: Path, label: str, positive: str | int, features: list[str]
) -> None:
    data: dict[str, object] = {"train": "digits", "label": label, "positive": positive}
    data |= {"features": [each for each in features if each != label] or ["other"]}
    model = {"layers": [{"units": 1, "activation": "sigmoid"}]}
    spec = JobSpec.model_validate({"name": "a", "data": data, "model": model})
    loaded = LoadedSpec(spec, "job.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit_module, "load_spec", lambda *_, **__: loaded)
        submission = prepare_submission("job.yaml", [])
    path = tmp_path / "job.yaml"
    path.write_text(submission.manifest.spec_yaml or "", encoding="utf-8", newline="")
    assert load_spec(str(path), environment=False).spec == spec


@pytest.mark.parametrize("name", ["1e5", "08", "1.5", "2026-01-01"])
def test_a_name_that_looks_like_a_number_stays_a_text(name: str) -> None:
    submission = prepared(f"name='{name}'")
    assert received(submission)["name"] == submission.name == name


def test_another_output_in_the_spec_is_refused() -> None:
    with pytest.raises(SubmissionError, match=r"output: .* not to '/mine'") as caught:
        prepared(spec=job_file(output="/mine"))
    assert "SUMGRAD_OUTPUT" in caught.value.hint
    assert "output" not in received(prepared(spec=job_file(output="runs")))


@pytest.mark.parametrize("address", ["local", "auto"])
def test_the_address_of_this_machine_is_not_sent(address: str) -> None:
    assert "address" not in received(prepared(f"cluster.address={address}")).get("cluster", {})


@pytest.mark.parametrize("address", ["inline", "head:6379"])
def test_another_cluster_in_the_spec_is_refused(address: str) -> None:
    with pytest.raises(SubmissionError, match=f"not on '{address}'") as caught:
        prepared(f"cluster.address={address}")
    assert "--cluster" in caught.value.hint


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "sqlite:////tmp/x.db", "sqlite+pysqlite:///x.db"]
)
def test_a_database_on_this_machine_is_refused(uri: str) -> None:
    with pytest.raises(SubmissionError, match="is a file on this machine"):
        prepared(f"tracking.uri={uri}")


@pytest.mark.parametrize(
    "uri",
    [
        *("http://me:s3cr3t@mlflow:5000", "http://s3cr3t@mlflow", "http://mlflow/?token=s3cr3t"),
        *("postgresql://me:s3cr3t@db/x", "postgresql://db/x?user=me&password=s3cr3t"),
        "http://***@mlflow:5000",
    ],
)
def test_a_password_is_not_sent(uri: str) -> None:
    with pytest.raises(SubmissionError, match="has a password") as caught:
        prepared(f"tracking.uri='{uri}'")
    assert "s3cr3t" not in caught.value.message + caught.value.hint
    assert "MLFLOW_TRACKING_PASSWORD" in caught.value.hint


@pytest.mark.parametrize("uri", ["./mlruns", "file:///mlruns", "http://host:0", "http://[x"])
def test_an_invalid_tracking_uri_is_refused(uri: str) -> None:
    with pytest.raises(SpecError, match=r"tracking\.uri"):
        prepared(f"tracking.uri={uri}")


def test_another_mlflow_server_is_sent() -> None:
    assert received(prepared("tracking.uri=http://other:5000"))["tracking"] == {
        "uri": "http://other:5000",
        **load_spec("digits", environment=False).spec.tracking.model_dump(
            exclude_unset=True, exclude={"uri"}
        ),
    }


@pytest.mark.parametrize(
    ("override", "kind"),
    [
        *(("seed=x", SpecError), ("sed=1", SpecError), ("seed", SpecError)),
        *(("data.label=[]", SpecError), ("data.train=gone.csv", SubmissionError)),
        ("data.train=s3://bucket/x", SubmissionError),
    ],
)
def test_an_invalid_job_is_refused_before_it_is_sent(override: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        prepared(override)


def test_an_id_is_checked_or_made_from_the_name() -> None:
    with pytest.raises(SubmissionError, match="cannot be a job's id"):
        prepared(job_id="a b")
    first, second = (prepared("name=My.Digits", job_id=None).manifest.job_id for _ in range(2))
    assert first.startswith("my-digits-")
    assert first != second


def test_data_are_uploaded_on_request_only(tmp_path: Path) -> None:
    Path("rows.csv").write_text("x,label\n1,a\n")
    spec = job_file(data={"train": "rows.csv", "test": "file:///data/test.csv"})
    with pytest.raises(SubmissionError, match="is on this machine"):
        prepared(spec=spec)
    submission = prepared(spec=spec, upload=True)
    assert received(submission)["data"] == {
        "train": "data/train/rows.csv",
        "test": "file:///data/test.csv",
    }
    client = FakeRayJobsClient()
    submit(submission, client)
    (sent,) = client.memory.sent
    assert sent.files["data/train/rows.csv"] == b"x,label\n1,a\n"
    assert sorted(sent.files) == ["data/train/rows.csv", "job.json"]
    (tmp_path / "job.json").write_bytes(sent.files["job.json"])
    assert JobManifest.read(tmp_path) == submission.manifest
    with pytest.raises(DataNotFound):
        prepared("data.train=gone.csv", spec=spec, upload=True)


def test_the_metadata_identify_the_job() -> None:
    submission = prepared()
    assert submission.metadata == {
        JOB_KEY: "digits-1",
        NAME_KEY: "digits",
        ATTEMPT_KEY: "1",
        DIGEST_KEY: submission.digest,
        CODE_KEY: "local",
        "sumgrad.version": HERE.sumgrad,
    }


def test_a_dry_run_contacts_no_server_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        pytest.fail("a server was contacted")

    monkeypatch.setattr("socket.socket.connect", connect)
    before = sorted(Path.cwd().parent.rglob("*"))
    submission = prepared("seed=5")
    value = submission.as_json(CLUSTER)
    assert sorted(Path.cwd().parent.rglob("*")) == before
    assert json.loads(json.dumps(value)) == value
    assert (value["id"], value["cluster"], value["spec"]["seed"]) == ("digits-1", ADDRESS, 5)


# Once for each id


def test_a_job_is_submitted() -> None:
    client = FakeRayJobsClient()
    assert submit(prepared(), client) == ("digits-1", True)
    (sent,) = client.memory.sent
    assert sent.entrypoint == ENTRYPOINT
    assert (sent.manifest["job_id"], sent.manifest["attempt"]) == ("digits-1", 1)
    assert sent.manifest["has_code"]
    assert not sent.manifest["allow_version_mismatch"]


def test_the_same_job_is_submitted_once() -> None:
    client = FakeRayJobsClient()
    submit(prepared(), client)
    assert submit(prepared(), client) == ("digits-1", False)
    client.memory.attempts["digits-1~2"] = attempt("digits-1~2", number=2)
    assert submit(prepared(), client)[0] == "digits-1~2", "the latest attempt"
    assert len(client.memory.sent) == 1


@pytest.mark.parametrize("other", ["seed=9", "optimizer.eta=0.25", "name=other"])
def test_another_job_with_the_same_id_is_refused(other: str) -> None:
    client = FakeRayJobsClient()
    submit(prepared(), client)
    with pytest.raises(SubmissionError, match="has another job with the id 'digits-1'"):
        submit(prepared(other), client)
    assert len(client.memory.sent) == 1


def test_other_data_make_another_job() -> None:
    path = Path("rows.csv")
    path.write_text("x,label\n1,a\n")
    spec = job_file(data={"train": "rows.csv"})
    first = prepared(spec=spec, upload=True).digest
    assert prepared(spec=spec, upload=True).digest == first
    path.write_text("x,label\n2,a\n")
    assert prepared(spec=spec, upload=True).digest != first
    one, two = (replace(prepared(), files={name: path}) for name in ("data/a", "data/b"))
    assert one.digest != two.digest, "the names of files count"


@pytest.mark.parametrize(("other", "is_same"), [("seed=0", True), ("seed=9", False)])
def test_a_submission_at_the_same_time_wins(other: str, is_same: bool) -> None:
    client = FakeRayJobsClient()

    def submit_first(_: str) -> None:
        client.memory.on_submit = lambda _: None
        submit(prepared(other), client)
        raise ServiceUnreachable("the cluster answers: job digits-1 already exists")

    client.memory.on_submit = submit_first
    if is_same:
        assert submit(prepared("seed=0"), client)[0] == "digits-1"
    else:
        with pytest.raises(SubmissionError, match="has another job"):
            submit(prepared("seed=0"), client)
    assert len(client.memory.sent) == 1


def test_a_refusal_of_the_cluster_is_an_error() -> None:
    client = FakeRayJobsClient()

    def refuse(_: str) -> None:
        raise ServiceUnreachable("the disk is full")

    client.memory.on_submit = refuse
    with pytest.raises(ServiceUnreachable, match="the disk is full"):
        submit(prepared(), client)
    client.memory.is_unreachable = True
    with pytest.raises(ServiceUnreachable, match="no cluster answers"):
        submit(prepared(), client)


def test_a_large_upload_has_a_longer_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeRayJobsClient()
    timeouts: list[float] = []
    monkeypatch.setattr(client, "submit", lambda *_, timeout: timeouts.append(timeout))
    large = Path("large.csv")
    with large.open("wb") as file:
        file.truncate(60_000_000)
    submit(replace(prepared(), files={"data/train/large.csv": large}), client)
    (timeout,) = timeouts
    assert timeout > 300


@pytest.mark.parametrize("is_deleted", [False, True])
def test_the_id_of_a_run_in_mlflow_is_refused(
    is_deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunView("uri", "ab", "FINISHED", is_deleted=is_deleted)
    monkeypatch.setattr(submit_module, "find_run", lambda *_: run)
    client = FakeRayJobsClient()
    with pytest.raises(SubmissionError, match="a run of an earlier job 'digits-1'") as caught:
        submit(prepared(), client)
    assert "choose another --id" in caught.value.hint
    resume = f"sumgrad resume digits-1 --cluster {ADDRESS}"
    assert (resume in caught.value.hint) is not is_deleted
    assert not client.memory.attempts


# Code and versions


@pytest.mark.parametrize("send_code", [True, False])
def test_code_is_sent_unless_the_clusters_is_chosen(send_code: bool) -> None:
    client = FakeRayJobsClient()
    submit(prepared(send_code=send_code), client)
    (sent,) = client.memory.sent
    modules = ("sumgrad", f"sumgrad-{HERE.sumgrad}.dist-info")
    assert sent.modules == (modules if send_code else ())
    assert sent.manifest["has_code"] is send_code
    assert sent.manifest["versions"]["code"] == HERE.code


@pytest.mark.parametrize("allowed", [False, True])
def test_another_ray_is_refused_before_anything_is_sent(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeRayJobsClient()
    monkeypatch.setattr(client, "ray_version", lambda: "1.0")
    submission = prepared(allow_version_mismatch=allowed)
    if allowed:
        submit(submission, client)
        assert client.memory.sent[0].manifest["allow_version_mismatch"]
        return
    with pytest.raises(VersionMismatch, match=r"other versions: ray .* here, 1\.0") as caught:
        submit(submission, client)
    assert "--allow-version-mismatch" in caught.value.hint
    assert not client.memory.sent
