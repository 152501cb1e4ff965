"""Which cluster a command uses, and which token; the token is never printed."""

import os
import stat
from pathlib import Path

import pytest
import yaml

from sumgrad.jobs.config.clusters import (
    Cluster,
    ClusterConfig,
    cluster_config_path,
    find_selected_cluster,
    normalize_address,
    read_cluster_config,
    select_cluster,
    write_cluster_config,
)
from sumgrad.jobs.errors import ClusterConfigError, SpecError
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.model.errors import SumgradError

TOKEN = "t0ken-of-the-lab"
LAB = Cluster(address="http://lab:8265", name="lab")
OTHERS = {"lab": LAB, "home": Cluster(address="http://home:8265", name="home")}


def write(text: str) -> Path:
    path = cluster_config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_no_cluster_is_selected_by_default() -> None:
    assert read_cluster_config() == ClusterConfig()
    assert find_selected_cluster(None) is None
    with pytest.raises(ClusterConfigError, match="no cluster is selected") as caught:
        select_cluster(None)
    assert "sumgrad cluster up" in caught.value.hint


ORDER = (
    ("RAY_ADDRESS", "http://ray-address:1", "http://ray-address:1"),
    ("RAY_API_SERVER_ADDRESS", "http://api:1", "http://api:1"),
    ("SUMGRAD_CLUSTER", "home", "http://home:8265"),
)


@pytest.mark.parametrize("count", range(len(ORDER) + 1))
def test_options_come_before_variables_and_the_default(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cluster_config(ClusterConfig(current="lab", clusters=OTHERS))
    expected = "http://lab:8265"
    for name, value, address in ORDER[:count]:
        monkeypatch.setenv(name, value)
        expected = address
    assert select_cluster(None).address == expected
    assert select_cluster("http://given:1").address == "http://given:1"
    assert select_cluster("lab").address == "http://lab:8265"


@pytest.mark.parametrize("value", ["auto", "head:6379", "10.0.0.1:6379", "local"])
def test_ray_address_without_a_scheme_is_ignored(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert find_selected_cluster(None) is None


@pytest.mark.parametrize("name", ["SUMGRAD_CLUSTER", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_an_empty_variable_is_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert find_selected_cluster(None) is None
    assert find_selected_cluster("") is None


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
def test_valid_addresses(given: str, address: str) -> None:
    assert select_cluster(given) == Cluster(address=address)
    assert normalize_address(given) == address


@pytest.mark.parametrize(
    "given",
    [
        *("ray://head:10001", "ftp://head", "http://", "http://:8265", "://", ":8265"),
        *("http://head:0", "http://head:99999", "http://head:x", "http://[", "file:///etc/passwd"),
        *("http://a b:80", "http://a\x7f:80", "s3://bucket"),
    ],
)
def test_invalid_addresses(given: str) -> None:
    with pytest.raises(ClusterConfigError, match="is not a cluster's address") as caught:
        select_cluster(given)
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
def test_a_password_in_an_address_is_refused_and_not_printed(given: str) -> None:
    with pytest.raises(ClusterConfigError) as caught:
        normalize_address(given)
    assert "s3" not in caught.value.message + caught.value.hint


def test_an_unknown_name_gets_a_suggestion() -> None:
    write_cluster_config(ClusterConfig(current=None, clusters=OTHERS))
    with pytest.raises(ClusterConfigError, match="no cluster is named 'lap'") as caught:
        select_cluster("lap")
    assert "lab" in caught.value.hint
    with pytest.raises(ClusterConfigError) as caught:
        select_cluster("xyzzy")
    assert "home, lab" in caught.value.hint


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a:b", "x" * 64, "ü", "a\n", "../x"])
def test_invalid_names(name: str) -> None:
    with pytest.raises(ClusterConfigError, match="is not a valid cluster name"):
        ClusterConfig().with_cluster(name, {"address": "http://h:1"})


@pytest.mark.parametrize("name", ["a", "lab-1", "a.b_c", "x" * 63, "1"])
def test_valid_names(name: str) -> None:
    assert ClusterConfig().with_cluster(name, {"address": "h:1"}).clusters == {
        name: Cluster(name=name, address="http://h:1")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "ray://h:1"}, "'ray://h:1' is not a cluster's address"),
        ({"address": "h:1", "token_file": Path("~no-such-user/x")}, "names a home folder"),
        ({"address": "h:1", "tracking_token_file": Path("/x")}, "needs a tracking_uri"),
    ],
)
def test_a_cluster_with_an_invalid_option_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ClusterConfigError, match=message):
        ClusterConfig().with_cluster("lab", options)


def test_writing_and_reading_round_trips() -> None:
    whole = Cluster(
        address="https://lab:1",
        name="lab",
        tracking_uri="http://mlflow:5000",
        token_file=Path("/home/a/token"),
        ca_file=Path("/home/a/ca"),
    )
    written = ClusterConfig(current="lab", clusters={"lab": whole, "home": OTHERS["home"]})
    write_cluster_config(written)
    assert read_cluster_config() == written
    assert select_cluster(None) == whole


def test_the_file_is_private() -> None:
    old = os.umask(0)
    try:
        write_cluster_config(ClusterConfig(current="lab", clusters=OTHERS))
    finally:
        os.umask(old)
    assert stat.S_IMODE(cluster_config_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(cluster_config_path().parent.stat().st_mode) == 0o700


def test_a_cluster_is_selected_replaced_and_removed() -> None:
    both = ClusterConfig(current=None, clusters=OTHERS).using("home")
    assert both.current == "home"
    again = both.with_cluster("home", {"address": "http://new:1"})
    assert again.clusters["home"].address == "http://new:1"
    assert again.current == "home"
    assert again.without("lab").current == "home"
    assert again.without("home") == ClusterConfig(current=None, clusters={"lab": LAB})
    for change in (both.using, both.without):
        with pytest.raises(ClusterConfigError, match="no cluster is named 'x'"):
            change("x")


def test_the_path_of_the_file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_config_path() == home / ".config/sumgrad/clusters.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert cluster_config_path() == home / ".config/sumgrad/clusters.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert cluster_config_path() == Path("/etc/xdg/sumgrad/clusters.yaml")
    monkeypatch.setenv("SUMGRAD_CONFIG", "~/mine.yaml")
    assert cluster_config_path() == home / "mine.yaml"


def test_an_unknown_home_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMGRAD_CONFIG", "~no-such-user/c.yaml")
    for ask in (
        cluster_config_path,
        read_cluster_config,
        lambda: write_cluster_config(ClusterConfig()),
    ):
        with pytest.raises(
            ClusterConfigError, match=r"\(SUMGRAD_CONFIG\) names a home folder that does not exist"
        ):
            ask()


def test_a_user_without_a_home_has_no_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")

    def no_user(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", no_user)
    assert find_selected_cluster(None) is None
    assert LAB.token() is None


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "clusters: {}\n", "current: null\n"])
def test_an_empty_file_names_no_cluster(text: str) -> None:
    write(text)
    assert read_cluster_config() == ClusterConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "should be a mapping of keys to values"),
        ("hello", "should be a mapping of keys to values"),
        ("0", "should be a mapping of keys to values"),
        ("current: 3\n", "line 1: current: 3 should be a string"),
        ("clusters: 3\n", "line 1: clusters: 3 should be a mapping of keys to values"),
        (
            "clusters:\n  lab: http://lab:8265\n",
            "line 2: clusters.lab: 'http://lab:8265' should be",
        ),
        ("clusters: {lab: {}}\n", "line 1: clusters.lab.address: required, but not given"),
        ("clusters: {lab: {address: 3}}\n", "clusters.lab.address: 3 should be a string"),
        (
            "clusters: {lab: {address: 'http://h:1', ca_file: 3}}\n",
            "clusters.lab.ca_file: 3 should be the path of a file",
        ),
        (
            "clusters: {lab: {address: 'http://h:1', token: x}}\n",
            "clusters.lab.token: unknown key",
        ),
        (
            "clusters: {lab: {address: 'http://h:1', name: other}}\n",
            "clusters.lab.name: the cluster's name is 'lab'",
        ),
        ("clusters: {'a b': {address: 'http://h:1'}}\n", "'a b' is not a valid cluster name"),
        ("curent: lab\n", "line 1: curent: unknown key"),
        (
            "clusters: {lab: {address: 'ray://h:1'}}\n",
            "clusters.lab.address: 'ray://h:1' is not a cluster's address",
        ),
        ("clusters: {lab: {address: 'http://me:s3cr3t@h:1'}}\n", "no user and no password"),
        (
            "clusters: {lab: {address: 'http://h:1', token_file: '~no-such-user/x'}}",
            "names a home folder that does not exist",
        ),
        (
            "clusters: {lab: {address: 'http://h:1', tracking_token_file: '/x'}}",
            "clusters.lab: tracking_token_file needs a tracking_uri",
        ),
    ],
)
def test_an_invalid_file_is_refused_with_line_and_key(text: str, message: str) -> None:
    write(text)
    with pytest.raises(ClusterConfigError) as caught:
        read_cluster_config()
    assert message in caught.value.message
    assert caught.value.message.startswith(str(cluster_config_path()))
    assert caught.value.hint
    assert "s3cr3t" not in str(caught.value)
    assert "pydantic" not in caught.value.message + caught.value.hint
    assert "Input" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("curent: lab\n", "did you mean 'current'?"),
        ("clusters: {lab: {adress: 'http://h:1'}}\n", "did you mean 'clusters.lab.address'?"),
        (
            "clusters: {lab: {address: 'http://h:1', toke_file: /x}}\n",
            "did you mean 'clusters.lab.token_file'?",
        ),
        ("clusters: 3\n", "sumgrad cluster add"),
    ],
)
def test_an_invalid_file_gets_a_hint(text: str, hint: str) -> None:
    write(text)
    with pytest.raises(ClusterConfigError) as caught:
        read_cluster_config()
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["{", "a: b: c", "a: 1\na: 2\n", "[" * 200, "&a [*a, *a]"])
def test_a_file_that_is_not_yaml_is_refused(text: str) -> None:
    path = write(text)
    with pytest.raises(SumgradError) as caught:
        read_cluster_config()
    assert isinstance(caught.value, SpecError | ClusterConfigError)
    assert str(path) in caught.value.message


def test_a_default_that_is_not_named_is_an_error() -> None:
    write("current: gone\nclusters: {lab: {address: 'http://lab:8265'}}\n")
    with pytest.raises(ClusterConfigError, match="no cluster is named 'gone'"):
        find_selected_cluster(None)
    assert select_cluster("lab") == LAB


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    path = cluster_config_path()
    path.mkdir(parents=True)
    with pytest.raises(ClusterConfigError, match="cannot be read: it is a folder"):
        read_cluster_config()
    path.rmdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ClusterConfigError, match="cannot be read"):
        read_cluster_config()
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ClusterConfigError, match="cannot be read: larger than"):
        read_cluster_config()


def test_mlflow_of_the_environment_is_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    write_cluster_config(
        ClusterConfig(
            current="lab",
            clusters={
                "lab": Cluster(address="http://lab:1", name="lab", tracking_uri="http://own:5000")
            },
        )
    )
    assert select_cluster("http://h:1").tracking_uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env:5000")
    assert select_cluster("lab").tracking_uri == "http://own:5000"
    assert select_cluster("http://h:1").tracking_uri == "http://env:5000"


def test_labels_of_clusters() -> None:
    assert LAB.label == "lab (http://lab:8265)"
    assert Cluster(address="http://h:1").label == "http://h:1"


def token_file(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def test_the_order_of_token_sources(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, plain = (
        Cluster(address="http://h:1", name="lab", token_file=tmp_path / "own"),
        Cluster(address="http://h:1"),
    )
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
    cluster = Cluster(address="http://h:1", name="lab", token_file=path if way == "file" else None)
    with pytest.raises(ClusterConfigError) as caught:
        cluster.token()
    assert str(path) in caught.value.message
    assert TOKEN not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("value", [f"{TOKEN}\nX-Evil: yes", f"{TOKEN} x", f"{TOKEN}é", "\x01"])
def test_a_variable_without_a_token_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", value)
    with pytest.raises(ClusterConfigError, match="RAY_AUTH_TOKEN holds no token") as caught:
        LAB.token()
    assert TOKEN not in str(caught.value) + caught.value.hint


def test_a_token_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe, 0o600)
    for path in (folder, pipe, tmp_path / "missing", Path("a\0b"), Path("~no-such-user/x")):
        monkeypatch.setattr("os.environ", {"RAY_AUTH_TOKEN_PATH": str(path)})
        with pytest.raises(
            ClusterConfigError, match=r"RAY_AUTH_TOKEN_PATH\) (cannot be read|names a home)"
        ):
            LAB.token()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_token_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", TOKEN, mode)
    with pytest.raises(ClusterConfigError, match="can be written by others") as caught:
        Cluster(address="http://h:1", name="lab", token_file=path).token()
    assert caught.value.hint == f"chmod 600 {path}"
    assert TOKEN not in str(caught.value)


def test_the_token_is_never_printed_or_written(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", TOKEN)
    cluster = Cluster(address="http://h:1", name="lab", token_file=path)
    write_cluster_config(ClusterConfig(current="lab", clusters={"lab": cluster}))
    server = RayJobsClient(select_cluster(None))
    text = cluster_config_path().read_text()
    assert yaml.safe_load(text)["clusters"]["lab"]["token_file"] == str(path)
    assert cluster.token() == TOKEN
    assert TOKEN not in text + repr(cluster) + repr(server) + str(server) + cluster.label


def test_the_token_file_of_mlflow_round_trips(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", TOKEN)
    lab = Cluster(
        address="http://h:1", name="lab", tracking_uri="http://h:5000", tracking_token_file=path
    )
    write_cluster_config(ClusterConfig(current="lab", clusters={"lab": lab}))
    found = select_cluster(None)
    assert found == lab
    assert found.token() is None, "it is not the cluster's own"
    assert found.login is not None
    assert found.login.password() == TOKEN
    assert TOKEN not in cluster_config_path().read_text() + repr(found) + repr(found.login)
    assert LAB.login is None


def test_an_address_means_the_cluster_named_for_it(home: Path) -> None:
    lab = Cluster(address="http://h:1", name="lab", token_file=home / "token")
    write_cluster_config(ClusterConfig(current=None, clusters={"lab": lab}))
    assert select_cluster("h:1") == lab
    assert select_cluster("http://h:2") == Cluster(address="http://h:2")


def test_an_unwritable_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SUMGRAD_CONFIG", str(tmp_path / "file" / "clusters.yaml"))
    with pytest.raises(ClusterConfigError, match="cannot be written") as caught:
        write_cluster_config(ClusterConfig())
    assert "SUMGRAD_CONFIG" in caught.value.hint
