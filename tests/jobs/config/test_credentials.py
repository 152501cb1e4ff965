"""Which MLflow server gets which token, and what a refusal is reported as."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sumgrad.jobs.config.clusters import (
    Cluster,
    ClusterConfig,
    cluster_config_path,
    find_credentials,
    write_cluster_config,
)
from sumgrad.jobs.config.credentials import Credentials, login_error, with_password
from sumgrad.jobs.errors import LoginRefused, TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking.delivery import Delivery
from sumgrad.jobs.tracking.metadata import RECORD
from sumgrad.jobs.tracking.outbox import Point, Receipt
from sumgrad.jobs.tracking.store import open_store
from tests.jobs.runs.records import RECORD_OF_A_RUN
from tests.jobs.service.fakes import Answer, Site, site

TOKEN = "t0ken-of-the-lab"
LAB = "http://lab:5000"
SEARCH = "/api/2.0/mlflow/experiments/search"
LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def login(token: Path, uri: str = LAB) -> Credentials:
    return Credentials(uri, token, "a file of the test")


@pytest.mark.parametrize(
    "uri", [LAB, f"{LAB}/", "http://LAB:5000", "HTTP://lab:5000".replace("HTTP", "http")]
)
def test_equal_addresses_are_one_server(uri: str, token: Path) -> None:
    assert login(token).is_for(uri)
    assert login(token, uri).is_for(LAB)


def test_the_default_port_is_the_schemes(token: Path) -> None:
    assert login(token, "https://lab").is_for("https://lab:443/")
    assert login(token, "http://lab").is_for("http://lab:80")
    assert login(token, "http://lab/mlflow/").is_for("http://lab/mlflow")
    assert login(token, "http://[::1]:5000").is_for("http://[::1]:5000/")


@pytest.mark.parametrize(
    "uri",
    [
        *("http://lab:5001", "https://lab:5000", "http://lab", "http://lab:5000/other"),
        *("http://lab.example:5000", "http://127.0.0.1:5000", "http://evil@lab:5000"),
        *("http://lab:5000@evil:80", "http://evil:80/http://lab:5000", "http://evil#@lab:5000"),
        *("http://evil?@lab:5000", "http://evil\\@lab:5000", "http://lab:50000", "http://lab:x"),
        *("sqlite:///mlflow.db", "file:///lab:5000", "", "lab:5000", "http://", "http://[lab"),
    ],
)
def test_another_server_gets_no_password(uri: str, token: Path) -> None:
    assert not login(token).is_for(uri)
    assert with_password(uri, login(token)) == uri


def test_the_password_is_part_of_the_address_for_mlflow(token: Path) -> None:
    assert with_password(LAB, login(token)) == f"http://sumgrad:{TOKEN}@lab:5000"
    assert TOKEN not in repr(login(token))
    token.write_text("a/b@c:d?e#f%g-and-more")
    address = with_password(f"{LAB}/mlflow", login(token, f"{LAB}/mlflow"))
    assert address == "http://sumgrad:a%2Fb%40c%3Ad%3Fe%23f%25g-and-more@lab:5000/mlflow"


@pytest.mark.parametrize(("content", "mode"), [("", 0o600), ("two words", 0o600), (TOKEN, 0o666)])
def test_a_file_without_a_token_is_a_tracking_error(content: str, mode: int, token: Path) -> None:
    token.write_text(content)
    token.chmod(mode)
    with pytest.raises(TrackingError, match="a file of the test") as caught:
        with_password(LAB, login(token))
    assert TOKEN not in str(caught.value)


def test_no_credentials_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_credentials(LAB) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", LAB)
    assert find_credentials(LAB) is None


def test_the_token_variable_is_for_the_server_of_the_uri_variable(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUMGRAD_TRACKING_TOKEN_FILE", str(token))
    assert find_credentials(LAB) is None, "the variable needs the server of the other one"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{LAB}/")
    assert find_credentials(LAB) == Credentials(f"{LAB}/", token, "SUMGRAD_TRACKING_TOKEN_FILE")
    assert find_credentials("http://evil:5000") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert find_credentials(LAB) is None


def cluster(name: str, uri: str | None, token: Path | None) -> Cluster:
    return Cluster(address="http://h:1", name=name, tracking_uri=uri, tracking_token_file=token)


def test_a_clusters_token_is_for_its_own_server(token: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    named = (
        cluster("plain", LAB, None),
        cluster("lab", LAB, token),
        cluster("home", "http://home:5000", other),
    )
    write_cluster_config(
        ClusterConfig(current="home", clusters={each.name or "": each for each in named})
    )
    found, elsewhere = find_credentials(LAB), find_credentials("http://home:5000")
    assert (found, elsewhere) == (named[1].login, named[2].login)
    assert find_credentials("http://other:5000") is None


def test_the_default_cluster_comes_first_and_the_variable_last(
    token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", LAB)
    monkeypatch.setenv("SUMGRAD_TRACKING_TOKEN_FILE", str(token))
    named = {name: cluster(name, LAB, tmp_path / name) for name in ("a", "b")}
    for current, file in (("b", tmp_path / "b"), ("a", tmp_path / "a"), (None, tmp_path / "a")):
        write_cluster_config(ClusterConfig(current=current, clusters=named))
        found = find_credentials(LAB)
        assert found is not None
        assert found.token_file == file
    cluster_config_path().unlink()
    assert find_credentials(LAB) is not None


@pytest.mark.parametrize("text", ["clusters: 3\n", "{", "\xff"])
def test_an_invalid_cluster_file_does_not_prevent_tracking(
    text: str, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_config_path().parent.mkdir(parents=True)
    cluster_config_path().write_text(text, encoding="latin-1")
    assert find_credentials(LAB) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", LAB)
    monkeypatch.setenv("SUMGRAD_TRACKING_TOKEN_FILE", str(token))
    assert find_credentials(LAB) is not None


def test_a_cluster_file_in_an_unknown_home_names_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUMGRAD_CONFIG", "~no-such-user/c.yaml")
    assert find_credentials(LAB) is None


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "postgresql://db/x", "x.db", ""])
def test_databases_need_no_cluster_file(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sumgrad.jobs.config.clusters.read_cluster_config", pytest.fail)
    assert find_credentials(uri) is None


def test_errors_for_refused_logins(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = login_error(401, LAB, None)
    assert asks is not None
    assert asks.message == f"the MLflow server at {LAB} requires a login, and none is configured"
    assert "--tracking-token-file FILE" in asks.hint
    wrong = login_error(401, LAB, login(token))
    assert wrong is not None
    assert f"rejects the token in {token} as the password of 'sumgrad'" in wrong.message
    with monkeypatch.context() as others:
        others.setenv("MLFLOW_TRACKING_TOKEN", "x")
        own = login_error(401, LAB, None)
    for refused in (own, login_error(401, "http://me:s3cr3t@lab:5000", None)):
        assert refused is not None
        assert "rejects the user and password" in refused.message
        assert "s3cr3t" not in str(refused)
    right = login_error(403, LAB, None)
    assert right is not None
    assert "403: this user may not" in right.message
    for code in (200, 400, 404, 429, 500):
        assert login_error(code, LAB, login(token)) is None


# --- asked of a server on loopback that notes what it was shown

SOUND = {"/health": Answer(), SEARCH: Answer(body="{}")}


@pytest.fixture
def server() -> Iterator[Site]:
    with site(SOUND) as found:
        yield found


def shown(server: Site) -> list[str | None]:
    """The logins that a server was shown."""
    found = []
    for asked in server.asked:
        header = asked.headers.get("Authorization")
        kind, _, value = (header or "").partition(" ")
        found.append(base64.b64decode(value).decode() if kind == "Basic" else header)
    return found


def remember(server: Site, token: Path) -> None:
    lab = cluster("lab", server.address, token)
    write_cluster_config(ClusterConfig(current=None, clusters={"lab": lab}))


def test_a_clusters_server_gets_its_token(server: Site, token: Path) -> None:
    remember(server, token)
    store = open_store(server.address)
    assert shown(server) == [None, f"sumgrad:{TOKEN}"], "its health is everybody's business"
    assert store.uri == server.address
    assert TOKEN not in repr(store)


def test_other_servers_get_no_token(
    server: Site, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(server, token)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", LAB)
    monkeypatch.setenv("SUMGRAD_TRACKING_TOKEN_FILE", str(token))
    with site(SOUND) as other:
        open_store(other.address)
        open_store(server.address.replace("127.0.0.1", "localhost"))
        # What is given is for its own server, too.
        open_store(other.address, login(token, server.address))
    assert set(shown(other) + shown(server)) == {None}
    sent = "".join(f"{each.path}{each.headers}{each.body}" for each in other.asked)
    assert TOKEN not in sent


def test_mlflow_does_not_print_the_address_with_the_token(
    server: Site, token: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(server, token)
    run = {"run": {"info": {"run_id": "ab", "experiment_id": "0", "status": "FINISHED"}}}
    for path in ("get?run_uuid=ab&run_id=ab", "update"):
        server.answers[f"/api/2.0/mlflow/runs/{path}"] = Answer(body=json.dumps(run))
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")
    open_store(server.address).client.set_terminated("ab")
    assert [each.path for each in server.asked][-1] == "/api/2.0/mlflow/runs/update"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirects_get_no_token(code: int, server: Site, token: Path) -> None:
    remember(server, token)
    with site(SOUND) as other:
        server.answers[SEARCH] = Answer(code, headers={"Location": other.address + SEARCH})
        open_store(server.address)
    assert shown(server) == [None, f"sumgrad:{TOKEN}"]
    assert len(other.asked) == 1
    assert shown(other) == [None]


def test_mlflows_own_variables_apply_to_other_servers(
    server: Site, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hers")
    open_store(server.address)
    remember(server, token)
    open_store(server.address)
    assert shown(server) == [None, "ada:hers", None, f"sumgrad:{TOKEN}"]
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "bearers")
    cluster_config_path().unlink()
    open_store(server.address)
    assert shown(server)[-1] == "Bearer bearers"
    open_store(server.address.replace("http://", "http://own:pw@"))
    assert shown(server)[-1] == "own:pw"


@pytest.mark.parametrize(("code", "text"), [(401, "rejects the token in"), (403, "may not")])
def test_a_refusal_is_one_line(code: int, text: str, server: Site, token: Path) -> None:
    remember(server, token)
    server.answers[SEARCH] = Answer(code, "You are not authenticated.\nSee elsewhere.")
    with pytest.raises(LoginRefused, match=text) as caught:
        open_store(server.address)
    assert not isinstance(caught.value, TrackingUnreachable), "asking again would not help"
    assert server.address in caught.value.message
    assert "\n" not in caught.value.message
    assert TOKEN not in caught.value.message + caught.value.hint


def test_a_rejected_host_header_is_not_a_login_error(server: Site) -> None:
    server.answers[SEARCH] = Answer(403, "Invalid Host header - possible DNS rebinding attack")
    with pytest.raises(TrackingError, match="Host header") as caught:
        open_store(server.address)
    assert not isinstance(caught.value, LoginRefused)


def test_a_replaced_token_is_read_again(server: Site, token: Path, tmp_path: Path) -> None:
    remember(server, token)
    (tmp_path / RECORD).write_text(RECORD_OF_A_RUN.to_json())
    Receipt("run").write(tmp_path)
    delivery = Delivery(tmp_path, lambda: open_store(server.address))
    points = [Point("loss", 0.5, 1, 1000)]
    server.answers[LOG_BATCH] = Answer(401, "log in first")
    with pytest.raises(LoginRefused):
        delivery.send_points(points)
    token.write_text("the-next-one-of-the-lab")
    server.answers[LOG_BATCH] = Answer(body="{}")
    delivery.send_points(points)
    assert shown(server)[-1] == "sumgrad:the-next-one-of-the-lab"
