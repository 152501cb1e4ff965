"""A job server, asked over HTTP: deadlines, refusals, and one line for each failure."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client import ray_api as ray_jobs
from sumgrad.jobs.service.client.ray_api import (
    FAILED,
    Attempt,
    RayJobsClient,
    RayServerInfo,
)
from sumgrad.model.errors import SumgradError
from tests.jobs.service.stand_ins import Answer, Site, free_port, raw_socket_server, site

TOKEN = "t0ken-of-the-lab"
VERSION = json.dumps({"version": "4", "ray_version": "2.60.0", "session_name": "session_1"})


@pytest.fixture
def dashboard() -> Iterator[Site]:
    """A dashboard without a cluster behind it."""
    with site({"/api/version": Answer(body=VERSION)}) as found:
        yield found


def server_at(address: str, **more: Any) -> RayJobsClient:
    return RayJobsClient(Cluster(address, **more))


def test_who_is_there(dashboard: Site) -> None:
    assert server_at(dashboard.address).server_info() == RayServerInfo("2.60.0", "session_1")
    assert "Authorization" not in dashboard.asked[0].headers


def test_the_token_is_shown(dashboard: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    server_at(dashboard.address).server_info()
    assert dashboard.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_the_token_is_not_shown_to_others(dashboard: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    elsewhere = {"Location": f"{dashboard.address}/api/version"}
    with site({"/api/version": Answer(302, headers=elsewhere)}) as sender:
        server_at(sender.address).server_info()
        assert sender.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert "Authorization" not in dashboard.asked[0].headers


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("has_token", [False, True])
def test_a_refusal(
    code: int, has_token: bool, dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    dashboard.answers["/api/version"] = Answer(code, f"Invalid token {TOKEN}")
    with pytest.raises(ServiceUnreachable) as caught:
        server_at(dashboard.address).server_info()
    told = "refuses our token" if has_token else "asks for a token, and none was given"
    assert caught.value.message == f"the cluster at {dashboard.address} {told}"
    assert "RAY_AUTH_TOKEN_PATH" in caught.value.hint
    assert TOKEN not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("code", [404, 500, 502])
def test_another_answer(code: int, dashboard: Site) -> None:
    dashboard.answers["/api/version"] = Answer(code)
    with pytest.raises(ServiceUnreachable, match=f"answers {code} to /api/version") as caught:
        server_at(dashboard.address).server_info()
    assert "8265" in caught.value.hint


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>", "[]", "3", "null", "{}", '{"ray_version": "2.60.0"}', "[" * 100_000),
        '{"ray_version": "2.60.0", "session_name": "x"',
    ],
)
def test_somebody_elses_page(body: str, dashboard: Site) -> None:
    dashboard.answers["/api/version"] = Answer(body=body)
    with pytest.raises(ServiceUnreachable, match="is no Ray dashboard"):
        server_at(dashboard.address).server_info()


@pytest.mark.parametrize(
    "garbage", [b"220 smtp ESMTP\r\n", b"\x00\x00\x12\x04\x00", b"HTTP/9.9 xx\r\n\r\n", b""]
)
def test_what_does_not_speak_http(garbage: bytes) -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(garbage)

    with (
        raw_socket_server(speak) as address,
        pytest.raises(ServiceUnreachable, match="no cluster answers at"),
    ):
        server_at(address).server_info()


def test_an_answer_that_breaks_off() -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")

    with raw_socket_server(speak) as address, pytest.raises(ServiceUnreachable):
        server_at(address).server_info()


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def slow(connection: socket.socket) -> None:
    connection.recv(4096)
    for character in b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 60:
        connection.sendall(bytes([character]))
        time.sleep(0.02)


@pytest.mark.parametrize("speak", [silent, slow])
def test_who_takes_too_long_is_away(
    speak: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "PROBE_S", 0.2)
    began = time.monotonic()
    with raw_socket_server(speak) as address:
        with pytest.raises(ServiceUnreachable, match="no cluster answers"):
            server_at(address).server_info()
        took = time.monotonic() - began
        # The one that goes on ends when the connection does.
        assert took < 5
        monkeypatch.undo()


def test_nobody_is_there() -> None:
    with pytest.raises(ServiceUnreachable, match="refused") as caught:
        server_at(f"http://127.0.0.1:{free_port()}").server_info()
    assert "sumgrad doctor" in caught.value.hint


@pytest.mark.parametrize("address", ["http://nobody.invalid:1", "http://127.0.0.1:1/a b"])
def test_a_name_that_leads_nowhere(address: str) -> None:
    with pytest.raises(ServiceUnreachable, match="no cluster answers"):
        server_at(address).server_info()


@pytest.mark.parametrize("content", [None, "garbage"])
def test_certificates_that_cannot_be_used(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ClusterConfigError, match=r"ca_file.* cannot be used") as caught:
        server_at("https://127.0.0.1:1", ca_file=path).server_info()
    assert str(path) in caught.value.message


def test_a_certificate_that_nobody_vouches_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(ServiceUnreachable, match="self-signed certificate"):
        server_at("https://127.0.0.1:1").server_info()


# What it says of jobs, and what somebody says who is none of Ray's


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


def test_an_attempt_as_ray_tells_it(dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-1"] = Answer(body=json.dumps(DETAILS))
    assert server_at(dashboard.address).attempt("digits-1") == Attempt(
        submission_id="digits-1",
        state=FAILED,
        message="it failed",
        error="JOB_ENTRYPOINT_COMMAND_ERROR",
        exit_code=3,
        start_time=2.0,
        end_time=3.5,
        metadata={"sumgrad.job": "digits-1"},
    )


def test_all_attempts_the_oldest_first(dashboard: Site) -> None:
    newer = DETAILS | {"submission_id": "digits-2", "start_time": 9000}
    bare = {key: DETAILS[key] for key in ("type", "submission_id", "status", "entrypoint")}
    driver = DETAILS | {"type": "DRIVER", "submission_id": None}
    dashboard.answers["/api/jobs/"] = Answer(body=json.dumps([newer, driver, DETAILS, bare]))
    found = server_at(dashboard.address).attempts()
    assert [attempt.start_time for attempt in found] == [None, 2.0, 9.0]
    assert found[0].metadata == {}


def test_a_job_that_the_cluster_does_not_know(dashboard: Site) -> None:
    server = server_at(dashboard.address)
    for name, ask in (("", server.attempt), ("/logs", server.log), ("/stop", server.stop)):
        answer = Answer(404, "Job digits-1 does not exist.")
        dashboard.answers[f"/api/jobs/digits-1{name}"] = answer
        with pytest.raises(JobNotFound, match="knows no such job"):
            ask("digits-1")
    with pytest.raises(JobNotFound):
        server.delete("digits-1")


@pytest.mark.parametrize("code", [401, 403])
def test_a_token_that_is_refused_later(
    code: int, dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    dashboard.answers["/api/jobs/digits-1"] = Answer(code, "no")
    with pytest.raises(ServiceUnreachable, match="refuses our token") as caught:
        server_at(dashboard.address).attempt("digits-1")
    assert TOKEN not in str(caught.value)


def test_a_number_that_looks_like_a_refusal_is_none(dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-4013"] = Answer(500, "no room for job digits-4013, 403 MB")
    with pytest.raises(ServiceUnreachable, match=r"answers: .*no room for job digits-4013"):
        server_at(dashboard.address).attempt("digits-4013")


def test_of_rays_own_traceback_the_last_line_is_told(dashboard: Site) -> None:
    body = "Traceback (most recent call last):\n  File x, line 1\nRuntimeError: no room\n"
    dashboard.answers["/api/jobs/digits-1"] = Answer(500, body)
    with pytest.raises(ServiceUnreachable, match=r"answers: RuntimeError: no room") as caught:
        server_at(dashboard.address).attempt("digits-1")
    assert "Traceback" not in caught.value.message


STRANGE: list[dict[str, Any]] = [
    {"status": "NEW"},
    {"status": None},
    {"status": ["FAILED"]},
    {"metadata": [1]},
    {"metadata": "x"},
    {"driver_exit_code": "x"},
    {"driver_exit_code": float("inf")},
    {"driver_exit_code": {}},
    {"start_time": "soon"},
    {"start_time": [1]},
    {"start_time": float("nan")},
    {"end_time": 10**400},
    {"end_time": 1e300},
    {"end_time": -5},
]


@pytest.mark.parametrize(
    "body",
    [
        *(
            "",
            "{",
            "[]",
            "[3]",
            "3",
            '"x"',
            "null",
            "{}",
            "[null]",
            "[[]]",
            "<html>",
            "[" * 100_000,
        ),
        *(json.dumps(DETAILS | each) for each in STRANGE),
    ],
)
def test_an_answer_that_is_none_of_rays(body: str, dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-1"] = Answer(body=body)
    dashboard.answers["/api/jobs/"] = Answer(body=body if body in ("[]", "{}") else f"[{body}]")
    server = server_at(dashboard.address)
    with pytest.raises(ServiceUnreachable) as caught:
        server.attempt("digits-1")
    assert len(caught.value.message) < 200
    if body not in ("[]", "{}", "", "[[]]"):
        with pytest.raises(ServiceUnreachable):
            server.attempts()


def test_what_others_call_their_jobs_is_text(dashboard: Site) -> None:
    evil = DETAILS | {"submission_id": "a\x1b[2Jb", "metadata": {"sumgrad.name": "x\n\x1b]0;y\x07"}}
    dashboard.answers["/api/jobs/"] = Answer(body=json.dumps([evil]))
    (found,) = server_at(dashboard.address).attempts()
    assert found.submission_id.isprintable()
    assert found.metadata["sumgrad.name"] == "x ]0;y"


@pytest.mark.parametrize("name", ["../version", "a/b", "?x=1", "#", "ü", "%2e%2e", "digits-1~2"])
def test_a_name_does_not_lead_elsewhere(name: str, dashboard: Site) -> None:
    with pytest.raises(ServiceUnreachable):
        server_at(dashboard.address).attempt(name)
    path = dashboard.asked[-1].path
    assert path.count("/") == 3
    assert urllib.parse.unquote(path) == f"/api/jobs/{name}"


@pytest.mark.parametrize("page", ["", "<html><body>Bad gateway</body></html>"])
def test_a_page_of_somebody_in_between_is_told_by_its_code(page: str, dashboard: Site) -> None:
    dashboard.answers["/api/jobs/"] = Answer(502, page)
    with pytest.raises(ServiceUnreachable, match=r"answers 502 to /api/jobs/$"):
        server_at(dashboard.address).attempts()


def test_an_answer_without_an_end_is_not_taken(
    dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_at(dashboard.address)
    server.server_info()
    monkeypatch.setattr(ray_jobs, "_MOST_BYTES", 1 << 20)
    dashboard.answers["/api/jobs/digits-1/logs"] = Answer(body="x" * (1 << 20))
    with pytest.raises(ServiceUnreachable, match="more than 1 MiB"):
        server.log("digits-1")


@pytest.mark.parametrize("body", ["{}", "[]", '{"logs": 3}', "null", '"x"'])
def test_a_log_that_is_none_is_empty(body: str, dashboard: Site) -> None:
    dashboard.answers["/api/jobs/digits-1/logs"] = Answer(body=body)
    assert server_at(dashboard.address).log("digits-1") == ""


def test_small_questions_need_nothing_of_rays() -> None:
    program = (
        "import sys; from sumgrad.jobs.config.clusters import Cluster; "
        "from sumgrad.jobs.service.client.ray_api import RayJobsClient; "
        "server = RayJobsClient(Cluster(sys.argv[1])); "
        "server.attempts(), server.stop('x'), server.delete('x'), server.log('x'); "
        "print(*(name for name in ('ray', 'mlflow') if name in sys.modules))"
    )
    answers = {path: Answer(body="{}") for path in ("/api/jobs/x", "/api/jobs/x/stop")}
    logs = {"/api/jobs/x/logs": Answer(body="{}"), "/api/jobs/": Answer(body="[]")}
    with site({"/api/version": Answer(body=VERSION), **answers, **logs}) as found:
        done = subprocess.run(
            [sys.executable, "-c", program, found.address],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout == "\n"
    methods = [(asked.method, asked.path) for asked in found.asked]
    assert methods == [
        ("GET", "/api/version"),
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/x/stop"),
        ("DELETE", "/api/jobs/x"),
        ("GET", "/api/jobs/x/logs"),
    ]


def test_a_job_is_handed_in(dashboard: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cr3t@here")
    answer = {"job_id": "digits-1", "submission_id": "digits-1"}
    dashboard.answers["/api/jobs/"] = Answer(body=json.dumps(answer))
    server_at(dashboard.address).submit("digits-1", "true", {}, {"a": "b"})
    sent = dashboard.asked[-1]
    body = json.loads(sent.body)
    assert (sent.method, body["submission_id"], body["entrypoint"]) == ("POST", "digits-1", "true")
    assert body["metadata"] == {"a": "b"}
    assert sent.headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in sent.body
    assert "s3cr3t" not in sent.body


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("RAY_API_SERVER_ADDRESS", "{}"),
        ("RAY_ADDRESS", "{}"),
        ("RAY_ADDRESS", "127.0.0.1:1"),
        ("RAY_ADDRESS", "ray://127.0.0.1:1"),
        ("RAY_ADDRESS", "auto"),
    ],
)
def test_the_cluster_that_was_chosen_is_asked_whatever_rays_variables_say(
    name: str, form: str, dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"job_id": "digits-1", "submission_id": "digits-1"}
    dashboard.answers["/api/jobs/"] = Answer(body=json.dumps(answer))
    with site({"/api/version": Answer(body=VERSION)}) as other:
        value = form.format(other.address)
        monkeypatch.setenv(name, value)
        server_at(dashboard.address).submit("digits-1", "true", {}, {})
        assert dashboard.asked[-1].method == "POST"
        assert other.asked == []
    assert os.environ[name] == value
    assert os.environ.get("RAY_API_SERVER_ADDRESS") == (value if "API" in name else None)


def test_an_answer_that_does_not_come_is_not_waited_for(
    dashboard: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_at(dashboard.address)

    def never() -> None:
        time.sleep(2.0)

    monkeypatch.setattr(server, "_connected", never)
    began = time.monotonic()
    with pytest.raises(ServiceUnreachable, match=r"no answer in 0\.05 s"):
        server._ask(lambda client: client, 0.05)
    assert time.monotonic() - began < 1.5


def test_a_server_that_is_away_is_told_before_rays_client_is_asked() -> None:
    server = server_at(f"http://127.0.0.1:{free_port()}")
    for ask in (server.attempts, lambda: server.attempt("x"), lambda: server.log("x")):
        with pytest.raises(ServiceUnreachable, match="no cluster answers"):
            ask()


class Client:
    """Stands in for Ray's client where a log is followed."""

    def __init__(self, pieces: list[str], error: Exception | None = None) -> None:
        self._pieces = pieces
        self._error = error

    async def tail_job_logs(self, submission_id: str) -> Any:
        for piece in self._pieces:
            yield piece
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, RuntimeError("closed"), OSError("reset")])
def test_a_log_is_followed_until_the_connection_ends(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_at("http://127.0.0.1:1")
    monkeypatch.setattr(server, "_connected", lambda: Client(["a", "b\n"], error))
    assert [piece for piece in server.tail("x", lambda: True) if piece] == ["a", "b\n"]


def test_a_log_is_not_followed_by_who_does_not_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_at("http://127.0.0.1:1")
    monkeypatch.setattr(server, "_connected", lambda: Client(["a", "b"]))
    wanted = iter([True, False])
    assert [*server.tail("x", lambda: next(wanted))] in (["a"], [""])


def test_a_log_of_a_server_that_is_away_ends_at_once() -> None:
    server = server_at(f"http://127.0.0.1:{free_port()}")
    assert "".join(server.tail("x", lambda: True)) == ""


def details(state: str) -> Answer:
    return Answer(body=json.dumps(DETAILS | {"status": state}))


def test_a_token_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ClusterConfigError):
        server_at("http://127.0.0.1:1", token_file=tmp_path / "gone")


def test_no_error_is_another_kind(dashboard: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_at(dashboard.address)
    for error in (ValueError("x" * 900), KeyError("y"), RuntimeError(), MemoryError("z")):

        def fail(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(server, "_connected", fail)
        with pytest.raises(SumgradError) as caught:
            server.submit("x", "true", {}, {})
        assert len(caught.value.message) < 400
