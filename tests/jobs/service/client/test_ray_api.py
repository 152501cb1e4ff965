"""The client of Ray's job server: parsed answers, refusals, and one line for each failure."""

import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.states import FAILED, Attempt
from sumgrad.model.errors import SumgradError
from tests.jobs.service.fakes import (
    ADDRESS,
    Answer,
    FakeRayJobsClient,
    Site,
    attempt,
    free_port,
    site,
)

TOKEN = "t0ken-of-the-lab"
VERSION = json.dumps({"version": "4", "ray_version": "2.60.0", "session_name": "session_1"})
ACCEPTED = Answer(body=json.dumps({"job_id": "digits-1", "submission_id": "digits-1"}))


@pytest.fixture
def dashboard() -> Iterator[Site]:
    """A dashboard without a cluster behind it."""
    with site({"/api/version": Answer(body=VERSION)}) as found:
        yield found


def client_of(address: str, **more: Any) -> RayJobsClient:
    return RayJobsClient(Cluster(address=address, **more))


def test_the_server_reports_its_version(dashboard: Site) -> None:
    assert client_of(dashboard.address).ray_version() == "2.60.0"
    assert "Authorization" not in dashboard.asked[0].headers


@pytest.mark.parametrize(("code", "required"), [(200, False), (401, True), (403, True)])
def test_a_client_without_a_token_shows_whether_one_is_required(
    code: int, required: bool, dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    dashboard.answers["/api/version"] = Answer(code, VERSION)
    assert client_of(dashboard.address).requires_token() is required
    assert "Authorization" not in dashboard.asked[0].headers


def test_the_token_is_sent(dashboard: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    client_of(dashboard.address).ray_version()
    assert dashboard.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("path", ["/api/version", "/api/jobs/digits-1"])
@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("has_token", [False, True])
def test_a_refused_token_is_reported_without_it(
    path: str, code: int, has_token: bool, dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    dashboard.answers[path] = Answer(code, f"Invalid token {TOKEN}")
    with pytest.raises(ServiceUnreachable) as caught:
        client_of(dashboard.address).get_attempt("digits-1")
    problem = "refuses the token" if has_token else "requires a token, and none is known here"
    assert caught.value.message == f"the cluster at {dashboard.address} {problem}"
    assert "RAY_AUTH_TOKEN_PATH" in caught.value.hint
    assert TOKEN not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("code", [404, 500, 502])
def test_an_error_before_the_dashboard_is_known_is_named_by_its_status(
    code: int, dashboard: Site
) -> None:
    dashboard.answers["/api/version"] = Answer(code, "some text")
    with pytest.raises(ServiceUnreachable, match=f"answers {code} to /api/version") as caught:
        client_of(dashboard.address).ray_version()
    assert "8265" in caught.value.hint


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>", "[]", "3", "null", "{}", '{"ray_version": 3}', "[" * 100_000),
        '{"ray_version": "2.60.0"',
    ],
)
def test_another_server_is_no_dashboard(body: str, dashboard: Site) -> None:
    dashboard.answers["/api/version"] = Answer(body=body)
    with pytest.raises(ServiceUnreachable, match="is no Ray dashboard"):
        client_of(dashboard.address).ray_version()


def test_an_unreachable_server_is_reported_by_every_call() -> None:
    client = client_of(f"http://127.0.0.1:{free_port()}")
    for call in (
        *(client.ray_version, client.list_attempts, lambda: client.get_attempt("x")),
        *(lambda: client.get_log("x"), lambda: client.submit("x", "true", {}, {})),
    ):
        with pytest.raises(ServiceUnreachable, match=r"no cluster answers at .*refused") as caught:
            call()
        assert "sumgrad doctor" in caught.value.hint
    assert "".join(client.tail_log("x")) == ""


@pytest.mark.parametrize("content", [None, "garbage"])
def test_unusable_certificates_are_reported(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ClusterConfigError, match=r"ca_file.* cannot be used") as caught:
        client_of("https://127.0.0.1:1", ca_file=path)
    assert str(path) in caught.value.message


def test_an_unreadable_token_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ClusterConfigError):
        client_of("http://127.0.0.1:1", token_file=tmp_path / "gone")


# Attempts in Ray's answers


DETAILS = {
    "type": "SUBMISSION",
    "job_id": "01000000",
    "submission_id": "digits-1",
    "status": "FAILED",
    "entrypoint": "true",
    "message": "it failed",
    "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR",
    "driver_exit_code": 3,
    "start_time": 2000,
    "end_time": 3500,
    "metadata": {"sumgrad.job": "digits-1"},
}


def test_an_attempt_is_parsed(dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-1"] = Answer(body=json.dumps(DETAILS))
    assert client_of(dashboard.address).get_attempt("digits-1") == Attempt(
        submission_id="digits-1",
        ray_state=FAILED,
        message="it failed",
        driver_exit_code=3,
        start_time=2.0,
        end_time=3.5,
        metadata={"sumgrad.job": "digits-1"},
    )


def test_attempts_are_listed_the_oldest_first_without_drivers(dashboard: Site) -> None:
    newer = DETAILS | {"submission_id": "digits-2", "start_time": 9000}
    bare = {key: DETAILS[key] for key in ("type", "submission_id", "status", "entrypoint")}
    driver = DETAILS | {"type": "DRIVER", "submission_id": None}
    dashboard.answers["/api/jobs/"] = Answer(body=json.dumps([newer, driver, DETAILS, bare]))
    found = client_of(dashboard.address).list_attempts()
    assert [attempt.start_time for attempt in found] == [None, 2.0, 9.0]
    assert found[0].metadata == {}


def test_control_characters_in_other_programs_texts_are_removed(dashboard: Site) -> None:
    evil = DETAILS | {"submission_id": "a\x1b[2Jb", "metadata": {"sumgrad.name": "x\n\x1b]0;y\x07"}}
    dashboard.answers["/api/jobs/"] = Answer(body=json.dumps([evil]))
    (found,) = client_of(dashboard.address).list_attempts()
    assert found.submission_id.isprintable()
    assert found.metadata["sumgrad.name"] == "x ]0;y"


def test_an_unknown_attempt_is_reported(dashboard: Site) -> None:
    client = client_of(dashboard.address)
    calls = (("", client.get_attempt), ("/logs", client.get_log), ("/stop", client.stop))
    for name, call in calls:
        answer = Answer(404, "Job digits-1 does not exist.")
        dashboard.answers[f"/api/jobs/digits-1{name}"] = answer
        with pytest.raises(JobNotFound, match="knows no such job"):
            call("digits-1")
    with pytest.raises(JobNotFound):
        client.delete("digits-1")


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        # Numbers that look like a refusal.
        (500, "no memory for job digits-1, 403 MB", "answers: no memory for job digits-1"),
        (500, "Traceback (most recent call last):\n  x\nRuntimeError: y\n", r"s: RuntimeError: y$"),
        (502, "", "answers 502 to /api/jobs/digits-1$"),
        (502, "<html><body>Bad gateway</body></html>", "answers 502 to /api/jobs/digits-1$"),
    ],
)
def test_a_servers_error_is_one_line(code: int, body: str, message: str, dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-1"] = Answer(code, body)
    with pytest.raises(ServiceUnreachable, match=message):
        client_of(dashboard.address).get_attempt("digits-1")


STRANGE: list[dict[str, Any]] = [
    *({"status": value} for value in ("NEW", None, ["FAILED"])),
    *({"metadata": value} for value in ([1], "x")),
    {"driver_exit_code": {}},
    *({"driver_exit_code": value} for value in ("x", float("inf"))),
    *({"start_time": value} for value in ("soon", [1], float("nan"))),
    *({"end_time": value} for value in (10**400, 1e300, -5)),
]


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "[]", "[3]", "3", '"x"', "null", "{}", "[null]", "[[]]", "<html>"),
        *("[" * 100_000, *(json.dumps(DETAILS | each) for each in STRANGE)),
    ],
)
def test_an_answer_in_an_unknown_format_is_refused(body: str, dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-1"] = Answer(body=body)
    dashboard.answers["/api/jobs/"] = Answer(body=body if body in ("[]", "{}") else f"[{body}]")
    client = client_of(dashboard.address)
    with pytest.raises(ServiceUnreachable) as caught:
        client.get_attempt("digits-1")
    assert len(caught.value.message) < 200
    if body not in ("[]", "{}", "", "[[]]"):
        with pytest.raises(ServiceUnreachable):
            client.list_attempts()


@pytest.mark.parametrize("name", ["../version", "a/b", "?x=1", "#", "ü", "%2e%2e", "digits-1~2"])
def test_an_id_stays_one_part_of_the_path(name: str, dashboard: Site) -> None:
    with pytest.raises(ServiceUnreachable):
        client_of(dashboard.address).get_attempt(name)
    path = dashboard.asked[-1].path
    assert path.count("/") == 3
    assert urllib.parse.unquote(path) == f"/api/jobs/{name}"


@pytest.mark.parametrize("body", ["{}", "[]", '{"logs": 3}', "null", '"x"'])
def test_an_answer_without_a_log_is_empty(body: str, dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-1/logs"] = Answer(body=body)
    assert client_of(dashboard.address).get_log("digits-1") == ""


def test_simple_requests_import_neither_ray_nor_mlflow() -> None:
    program = (
        "import sys; from sumgrad.jobs.config.clusters import Cluster; "
        "from sumgrad.jobs.service.client.ray_api import RayJobsClient; "
        "client = RayJobsClient(Cluster(address=sys.argv[1])); "
        "client.list_attempts(), client.stop('x'), client.delete('x'), client.get_log('x'); "
        "print(*(name for name in ('ray', 'mlflow') if name in sys.modules))"
    )
    paths = ("/api/jobs/x", "/api/jobs/x/stop", "/api/jobs/x/logs")
    answers = {path: Answer(body="{}") for path in paths}
    jobs = {"/api/jobs/": Answer(body="[]")}
    with site({"/api/version": Answer(body=VERSION), **answers, **jobs}) as found:
        done = subprocess.run(
            [sys.executable, "-c", program, found.address],
            cwd=Path(__file__).parents[4],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout == "\n"
    assert [(asked.method, asked.path) for asked in found.asked] == [
        ("GET", "/api/version"),
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/x/stop"),
        ("DELETE", "/api/jobs/x"),
        ("GET", "/api/jobs/x/logs"),
    ]


# Jobs


@pytest.fixture
def fake() -> FakeRayJobsClient:
    names = ("digits-1", "digits-2", "digits", "mnist-1")
    return FakeRayJobsClient(*(attempt(name) for name in names))


@pytest.mark.parametrize(
    ("text", "job_id"),
    [("digits-1", "digits-1"), ("digits", "digits"), ("mni", "mnist-1"), ("mnist-1", "mnist-1")],
)
def test_a_job_is_found_by_its_id_or_a_unique_start(
    fake: FakeRayJobsClient, text: str, job_id: str
) -> None:
    assert fake.find_job(text).job_id == job_id


@pytest.mark.parametrize("text", ["MNIST", "mnist-1.2", "mnist-12", "../x"])
def test_an_unknown_id_is_refused(fake: FakeRayJobsClient, text: str) -> None:
    with pytest.raises(JobNotFound, match="has no job") as caught:
        fake.find_job(text)
    assert ADDRESS in caught.value.message


@pytest.mark.parametrize("text", ["", "m", "mn", "x", "'"])
def test_a_start_of_fewer_than_three_characters_is_too_short(
    fake: FakeRayJobsClient, text: str
) -> None:
    with pytest.raises(JobNotFound, match=f"'{text}' is too short") as caught:
        fake.find_job(text)
    assert "3 characters" in caught.value.hint


def test_an_ambiguous_start_names_the_jobs(fake: FakeRayJobsClient) -> None:
    with pytest.raises(JobNotFound, match="several jobs start with 'digits-': digits-1, digits-2"):
        fake.find_job("digits-")


def test_the_hint_names_the_nearest_job(fake: FakeRayJobsClient) -> None:
    with pytest.raises(JobNotFound) as caught:
        fake.find_job("mnost-1")
    assert "mnist-1" in caught.value.hint
    with pytest.raises(JobNotFound) as caught:
        FakeRayJobsClient().find_job("mnist-1")
    assert caught.value.hint == "it has no jobs"


# What Ray's own client does


def test_a_submission_sends_the_token_and_nothing_of_the_environment(
    dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cr3t@here")
    dashboard.answers["/api/jobs/"] = ACCEPTED
    client_of(dashboard.address).submit("digits-1", "true", {}, {"a": "b"})
    sent = dashboard.asked[-1]
    body = json.loads(sent.body)
    assert (sent.method, body["submission_id"], body["entrypoint"]) == ("POST", "digits-1", "true")
    assert body["metadata"] == {"a": "b"}
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in sent.body
    assert "s3cr3t" not in sent.body


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("RAY_API_SERVER_ADDRESS", "{}"), ("RAY_ADDRESS", "{}"), ("RAY_ADDRESS", "auto")),
        *(("RAY_ADDRESS", "127.0.0.1:1"), ("RAY_ADDRESS", "ray://127.0.0.1:1")),
    ],
)
def test_rays_variables_do_not_redirect_a_submission(
    name: str, value: str, dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.answers["/api/jobs/"] = ACCEPTED
    with site({"/api/version": Answer(body=VERSION)}) as other:
        value = value.format(other.address)
        monkeypatch.setenv(name, value)
        client_of(dashboard.address).submit("digits-1", "true", {}, {})
        assert dashboard.asked[-1].method == "POST"
        assert other.asked == []
    assert os.environ[name] == value
    assert os.environ.get("RAY_API_SERVER_ADDRESS") == (value if "API" in name else None)


class Sdk:
    """A fake of Ray's client.

    Args:
        pieces: Of the log.
        error: Raised after them, and by a submission.
        delay: Seconds that a submission takes.
    """

    def __init__(
        self, pieces: list[str], error: Exception | None = None, delay: float = 0.0
    ) -> None:
        self._pieces = pieces
        self._error = error
        self._delay = delay

    async def tail_job_logs(self, submission_id: str) -> Any:
        for piece in self._pieces:
            yield piece
        if self._error is not None:
            raise self._error

    def submit_job(self, **_: object) -> None:
        time.sleep(self._delay)
        if self._error is not None:
            raise self._error


def with_sdk(monkeypatch: pytest.MonkeyPatch, sdk: Sdk) -> RayJobsClient:
    client = client_of("http://127.0.0.1:1")
    monkeypatch.setattr(client, "_connect", lambda: sdk)
    return client


def test_a_submission_has_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_sdk(monkeypatch, Sdk([], delay=1.0))
    with pytest.raises(ServiceUnreachable, match=r"no answer in 0\.05 s"):
        client.submit("x", "true", {}, {}, timeout=0.05)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("x" * 900), "answers: xxx"),
        (KeyError("y"), "answers: 'y'"),
        (RuntimeError(), "answers: "),
        (MemoryError("z"), "answers: z"),
        (OSError("reset"), "no cluster answers at .*: reset"),
    ],
)
def test_errors_of_rays_client_are_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_sdk(monkeypatch, Sdk([], error))
    with pytest.raises(SumgradError, match=message) as caught:
        client.submit("x", "true", {}, {})
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("error", [None, RuntimeError("closed"), OSError("reset")])
def test_a_log_is_followed_until_the_connection_ends(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_sdk(monkeypatch, Sdk(["a", "b\n"], error))
    assert [piece for piece in client.tail_log("x") if piece] == ["a", "b\n"]
