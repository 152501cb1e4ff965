"""Which cluster is meant, and with which token; the token is never told."""

import os
import stat
from pathlib import Path

import pytest
import yaml

from sumgrad.jobs.config.clusters import (
    Cluster,
    Contexts,
    chosen_cluster,
    cluster_if_chosen,
    contexts_file,
    expect_name,
    normal_address,
    read_contexts,
    write_contexts,
)
from sumgrad.jobs.errors import ContextError, SpecError
from sumgrad.jobs.service.client.ray_api import JobServer
from sumgrad.model.errors import SumgradError

TOKEN = "t0ken-of-the-lab"
LAB = Cluster("http://lab:8265", "lab")
OTHERS = {"lab": LAB, "home": Cluster("http://home:8265", "home")}


def write(text: str) -> Path:
    path = contexts_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_is_chosen_where_nothing_was_said() -> None:
    assert read_contexts() == Contexts(None, {})
    assert cluster_if_chosen(None) is None
    with pytest.raises(ContextError, match="no cluster is chosen") as caught:
        chosen_cluster(None)
    assert "sumgrad cluster up" in caught.value.hint


ORDER = (
    ("RAY_ADDRESS", "http://ray-address:1", "http://ray-address:1"),
    ("RAY_API_SERVER_ADDRESS", "http://api:1", "http://api:1"),
    ("SUMGRAD_CLUSTER", "home", "http://home:8265"),
)


@pytest.mark.parametrize("count", range(len(ORDER) + 1))
def test_the_nearest_word_counts(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_contexts(Contexts("lab", OTHERS))
    expected = "http://lab:8265"
    for name, value, address in ORDER[:count]:
        monkeypatch.setenv(name, value)
        expected = address
    assert chosen_cluster(None).address == expected
    assert chosen_cluster("http://given:1").address == "http://given:1"
    assert chosen_cluster("lab").address == "http://lab:8265"


@pytest.mark.parametrize("value", ["auto", "head:6379", "10.0.0.1:6379", "local"])
def test_rays_second_variable_means_no_job_server_without_a_scheme(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert cluster_if_chosen(None) is None


@pytest.mark.parametrize("name", ["SUMGRAD_CLUSTER", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_an_empty_variable_says_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert cluster_if_chosen(None) is None
    assert cluster_if_chosen("") is None


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://head/ray/", "https://head/ray"),
        ("head:8265", "http://head:8265"),
        ("http://head", "http://head"),
        ("HTTP://head:1", "http://head:1"),
        ("http://[::1]:8265", "http://[::1]:8265"),
        ("http://head:8265/?token=x#y", "http://head:8265"),
    ],
)
def test_what_is_an_address(given: str, address: str) -> None:
    assert chosen_cluster(given) == Cluster(address)
    assert normal_address(given) == address


@pytest.mark.parametrize(
    "given",
    [
        *("ray://head:10001", "ftp://head", "http://", "http://:8265", "://", ":8265"),
        *("http://head:0", "http://head:99999", "http://head:x", "http://[", "file:///etc/passwd"),
        *("http://a b:80", "http://a\x7f:80", "s3://bucket"),
    ],
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ContextError, match="is no cluster's address") as caught:
        chosen_cluster(given)
    assert "http://127.0.0.1:8265" in caught.value.hint
    assert ("Ray Client" in caught.value.hint) is given.startswith("ray://")


@pytest.mark.parametrize(
    "given",
    [
        *("http://me:s3cr3t@head:8265", "https://me:s3cr3t@head", "me:s3cr3t@head:8265"),
        *("http://me:s3/cr3t@head:8265", "me:s3cr3t/x@head:8265", "http://me:s3cr3t@head:0"),
        *("ray://me:s3cr3t@head:1", "http://s3cr3t@head:1", "http://:s3cr3t@head:1"),
        "http://@head:1",
    ],
)
def test_an_address_has_no_password_and_an_error_does_not_tell_it(given: str) -> None:
    with pytest.raises(ContextError) as caught:
        normal_address(given)
    assert "s3" not in caught.value.message + caught.value.hint


def test_a_name_that_nobody_has_is_answered_with_the_nearest() -> None:
    write_contexts(Contexts(None, OTHERS))
    with pytest.raises(ContextError, match="no cluster is named 'lap'") as caught:
        chosen_cluster("lap")
    assert "lab" in caught.value.hint
    with pytest.raises(ContextError) as caught:
        chosen_cluster("xyzzy")
    assert "home, lab" in caught.value.hint


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a:b", "x" * 64, "ü", "a\n", "../x"])
def test_what_can_be_no_name(name: str) -> None:
    with pytest.raises(ContextError, match="cannot be a cluster's name"):
        expect_name(name)


@pytest.mark.parametrize("name", ["a", "lab-1", "a.b_c", "x" * 63, "1"])
def test_what_can_be_a_name(name: str) -> None:
    assert expect_name(name) == name


def test_what_was_written_is_read_again() -> None:
    whole = Cluster(
        "https://lab:1", "lab", "http://mlflow:5000", Path("/home/a/token"), Path("/home/a/ca")
    )
    written = Contexts("lab", {"lab": whole, "home": OTHERS["home"]})
    write_contexts(written)
    assert read_contexts() == written
    assert chosen_cluster(None) == whole


def test_the_file_is_its_owners_alone() -> None:
    old = os.umask(0)
    try:
        write_contexts(Contexts("lab", OTHERS))
    finally:
        os.umask(old)
    assert stat.S_IMODE(contexts_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(contexts_file().parent.stat().st_mode) == 0o700


def test_a_name_is_used_replaced_and_forgotten() -> None:
    both = Contexts(None, OTHERS).using("home")
    assert both.current == "home"
    again = both.with_cluster(Cluster("http://new:1", "home"))
    assert again.clusters["home"].address == "http://new:1"
    assert again.current == "home"
    assert again.without("lab").current == "home"
    assert again.without("home") == Contexts(None, {"lab": LAB})
    for change in (both.using, both.without):
        with pytest.raises(ContextError, match="no cluster is named 'x'"):
            change("x")


def test_where_the_file_is(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert contexts_file() == home / ".config/sumgrad/clusters.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert contexts_file() == home / ".config/sumgrad/clusters.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert contexts_file() == Path("/etc/xdg/sumgrad/clusters.yaml")
    monkeypatch.setenv("SUMGRAD_CONFIG", "~/mine.yaml")
    assert contexts_file() == home / "mine.yaml"


def test_a_home_of_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMGRAD_CONFIG", "~nobody-there/c.yaml")
    for ask in (contexts_file, read_contexts, lambda: write_contexts(Contexts(None, {}))):
        with pytest.raises(
            ContextError, match=r"\(SUMGRAD_CONFIG\) is in the home folder of nobody"
        ):
            ask()


def test_who_has_no_home_has_no_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")

    def nobody(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert cluster_if_chosen(None) is None
    assert LAB.token() is None


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "clusters: {}\n", "current: null\n"])
def test_a_file_that_says_nothing(text: str) -> None:
    write(text)
    assert read_contexts() == Contexts(None, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", ": what it holds should be keys and values"),
        ("hello", ": what it holds should be keys and values"),
        ("0", ": what it holds should be keys and values"),
        ("current: 3\n", "line 1: current should be a text"),
        ("clusters: 3\n", "line 1: clusters should be names with what belongs to each"),
        ("clusters:\n  lab: http://lab:8265\n", "line 2: clusters.lab should be keys and values"),
        ("clusters: {lab: {}}\n", "line 1: clusters.lab.address is missing"),
        ("clusters: {lab: {address: 3}}\n", "clusters.lab.address should be a text"),
        (
            "clusters: {lab: {address: 'http://h:1', ca_file: 3}}\n",
            "clusters.lab.ca_file should be the path of a file",
        ),
        (
            "clusters: {lab: {address: 'http://h:1', token: x}}\n",
            "clusters.lab.token is no key that is known there",
        ),
        ("clusters: {'a b': {address: 'http://h:1'}}\n", "clusters.a b cannot be a cluster's name"),
        ("curent: lab\n", "line 1: curent is no key that is known there"),
        (
            "clusters: {lab: {address: 'ray://h:1'}}\n",
            "clusters.lab: 'ray://h:1' is no cluster's address",
        ),
        ("clusters: {lab: {address: 'http://me:s3cr3t@h:1'}}\n", "no user and no password"),
        (
            "clusters: {lab: {address: 'http://h:1', token_file: '~nobody-there/x'}}",
            "home folder of nobody",
        ),
        (
            "clusters: {lab: {address: 'http://h:1', tracking_token_file: '/x'}}",
            "clusters.lab: a tracking_token_file is for the MLflow server at tracking_uri",
        ),
    ],
)
def test_a_damaged_file_is_refused(text: str, message: str) -> None:
    write(text)
    with pytest.raises(ContextError) as caught:
        read_contexts()
    assert message in caught.value.message
    assert caught.value.message.startswith(str(contexts_file()))
    assert caught.value.hint
    assert "s3cr3t" not in str(caught.value)
    assert "pydantic" not in caught.value.message + caught.value.hint
    assert "Input" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("curent: lab\n", "did you mean 'current'?"),
        ("clusters: {lab: {adress: 'http://h:1'}}\n", "did you mean 'address'?"),
        ("clusters: {lab: {address: 'http://h:1', toke_file: /x}}\n", "did you mean 'token_file'?"),
        ("clusters: 3\n", "sumgrad cluster add NAME URL"),
    ],
)
def test_a_damaged_file_is_told_with_what_to_do(text: str, hint: str) -> None:
    write(text)
    with pytest.raises(ContextError) as caught:
        read_contexts()
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["{", "a: b: c", "a: 1\na: 2\n", "[" * 200, "&a [*a, *a]"])
def test_a_file_that_is_no_yaml_is_refused(text: str) -> None:
    path = write(text)
    with pytest.raises(SumgradError) as caught:
        read_contexts()
    assert isinstance(caught.value, SpecError | ContextError)
    assert str(path) in caught.value.message


def test_a_current_cluster_that_is_not_there_is_told() -> None:
    write("current: gone\nclusters: {lab: {address: 'http://lab:8265'}}\n")
    with pytest.raises(ContextError, match="no cluster is named 'gone'"):
        cluster_if_chosen(None)
    assert chosen_cluster("lab") == LAB


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = contexts_file()
    path.mkdir(parents=True)
    with pytest.raises(ContextError, match="cannot be read: it is a folder"):
        read_contexts()
    path.rmdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ContextError, match="cannot be read"):
        read_contexts()
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ContextError, match="cannot be read: larger than"):
        read_contexts()


def test_the_environments_mlflow_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    write_contexts(Contexts("lab", {"lab": Cluster("http://lab:1", "lab", "http://own:5000")}))
    assert chosen_cluster("http://h:1").tracking_uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env:5000")
    assert chosen_cluster("lab").tracking_uri == "http://own:5000"
    assert chosen_cluster("http://h:1").tracking_uri == "http://env:5000"


def test_what_a_cluster_is_called() -> None:
    assert (LAB.label, LAB.option) == ("lab (http://lab:8265)", "lab")
    assert Cluster("http://h:1").label == Cluster("http://h:1").option == "http://h:1"


def token_file(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def test_the_order_of_tokens(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, plain = Cluster("http://h:1", "lab", token_file=tmp_path / "own"), Cluster("http://h:1")
    assert plain.token() is None
    token_file(home / ".ray/auth_token", "rays\n")
    token_file(tmp_path / "own", " own \n")
    assert (own.token(), plain.token()) == ("own", "rays")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token_file(tmp_path / "named", "named")))
    assert (own.token(), plain.token()) == ("own", "named")
    monkeypatch.setenv("RAY_AUTH_TOKEN", " given ")
    assert (own.token(), plain.token()) == ("own", "given")
    monkeypatch.setenv("RAY_AUTH_TOKEN", " ")
    assert plain.token() == "named"


@pytest.mark.parametrize(
    "content",
    [
        *("", "\n", "two words", "two\nlines", f"{TOKEN}\x00", f"{TOKEN}\nX-Evil: yes"),
        *(b"\xff\xfe" + TOKEN.encode(), f"{TOKEN}é", b"x" * (1 << 17)),
    ],
)
@pytest.mark.parametrize("way", ["file", "path", "rays"])
def test_a_file_without_a_token_is_refused(
    content: str | bytes, way: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / ".ray/auth_token" if way == "rays" else tmp_path / "token"
    token_file(path, content)
    if way == "path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    cluster = Cluster("http://h:1", "lab", token_file=path if way == "file" else None)
    with pytest.raises(ContextError) as caught:
        cluster.token()
    assert str(path) in caught.value.message
    assert TOKEN not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("value", [f"{TOKEN}\nX-Evil: yes", f"{TOKEN} x", f"{TOKEN}é", "\x01"])
def test_a_variable_without_a_token_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", value)
    with pytest.raises(ContextError, match="RAY_AUTH_TOKEN holds no token") as caught:
        LAB.token()
    assert TOKEN not in str(caught.value) + caught.value.hint


def test_a_token_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe, 0o600)
    for path in (folder, pipe, tmp_path / "missing", Path("a\0b"), Path("~nobody-there/x")):
        monkeypatch.setattr("os.environ", {"RAY_AUTH_TOKEN_PATH": str(path)})
        with pytest.raises(ContextError, match=r"RAY_AUTH_TOKEN_PATH\) (cannot be read|is in)"):
            LAB.token()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_token_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", TOKEN, mode)
    with pytest.raises(ContextError, match="can be written by others") as caught:
        Cluster("http://h:1", "lab", token_file=path).token()
    assert caught.value.hint == f"chmod 600 {path}"
    assert TOKEN not in str(caught.value)


def test_the_token_is_kept_to_itself(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", TOKEN)
    cluster = Cluster("http://h:1", "lab", token_file=path)
    write_contexts(Contexts("lab", {"lab": cluster}))
    server = JobServer(chosen_cluster(None))
    text = contexts_file().read_text()
    assert yaml.safe_load(text)["clusters"]["lab"]["token_file"] == str(path)
    assert cluster.token() == TOKEN
    assert TOKEN not in text + repr(cluster) + repr(server) + str(server) + cluster.label


def test_the_token_of_its_mlflow_is_noted_and_read_again(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", TOKEN)
    lab = Cluster("http://h:1", "lab", "http://h:5000", tracking_token_file=path)
    write_contexts(Contexts("lab", {"lab": lab}))
    found = chosen_cluster(None)
    assert found == lab
    assert found.token() is None, "it is not the cluster's own"
    assert found.login is not None
    assert found.login.password() == TOKEN
    assert TOKEN not in contexts_file().read_text() + repr(found) + repr(found.login)
    assert LAB.login is None


def test_an_address_that_has_a_name_has_all_of_it(home: Path) -> None:
    lab = Cluster("http://h:1", "lab", token_file=home / "token")
    write_contexts(Contexts(None, {"lab": lab}))
    assert chosen_cluster("h:1") == lab
    assert chosen_cluster("http://h:2") == Cluster("http://h:2")


def test_a_file_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SUMGRAD_CONFIG", str(tmp_path / "file" / "clusters.yaml"))
    with pytest.raises(ContextError, match="cannot be written") as caught:
        write_contexts(Contexts(None, {}))
    assert "SUMGRAD_CONFIG" in caught.value.hint
