"""The settings, the users and the password of MLflow's server."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.errors import ClusterConfigError
from sumgrad.jobs.service.local.mlflow_server import (
    SETTINGS_FILE,
    USERS_FILE,
    configure,
    ensure_admin,
    main,
    parse_arguments,
    read_password,
)

#: MLflow's own imports.
pytestmark = pytest.mark.filterwarnings("ignore")
TOKEN = "t0ken-of-the-lab"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo changes of the environment."""
    monkeypatch.setattr("os.environ", dict(os.environ))


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o444)
    return path


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["token"], 2), (["--port", "5000"], 2), (["--help"], 0)]
)
def test_wrong_arguments_print_the_usage(
    arguments: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["mlflow_server", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert "TOKEN FOLDER [OPTION ...]" in "".join(capsys.readouterr())


def test_options_of_mlflow_are_passed_on() -> None:
    found = parse_arguments(["t", "f", "--port", "5000", "--help"])
    assert (found.token, found.folder) == (Path("t"), Path("f"))
    assert found.options == ["--port", "5000", "--help"]


def test_the_folder_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    configure(tmp_path / "srv/mlflow")
    assert stat.S_IMODE((tmp_path / "srv/mlflow").stat().st_mode) == 0o700


def test_the_token_is_the_password(token: Path) -> None:
    assert read_password(token) == TOKEN


@pytest.mark.parametrize("content", ["", "two words and more", "short-token"])
def test_a_token_that_mlflow_does_not_accept_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ClusterConfigError) as caught:
        read_password(path)
    assert str(path) in caught.value.message
    assert "short-token" not in caught.value.message


def test_only_the_owner_can_read_the_users(tmp_path: Path) -> None:
    users = tmp_path / USERS_FILE
    users.touch()
    users.chmod(0o644)
    configure(tmp_path)
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    users.unlink()
    configure(tmp_path)
    assert stat.S_IMODE(users.stat().st_mode) == 0o600


def test_there_is_no_default_password_and_none_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = "password1234"
    os.environ["MLFLOW_AUTH_ADMIN_USERNAME"] = "admin"
    os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = "false"
    folder = tmp_path / "100% lab"
    folder.mkdir()
    configure(folder)
    found = settings()
    assert (found.admin_username, found.admin_password) == ("sumgrad", None)
    assert found.database_uri == f"sqlite:///{folder / USERS_FILE}"
    assert 0 < found.auth_cache_ttl_seconds <= 60
    assert os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] == "true"
    first = os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    configure(folder)
    assert len(first) == len(os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    assert first != os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    assert first not in (folder / SETTINGS_FILE).read_text()


def settings() -> Any:
    """Return the settings as MLflow reads them."""
    from mlflow.server.auth.config import read_auth_config

    return read_auth_config()


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MLflow's own store of users."""
    folder = tmp_path_factory.mktemp("users")
    before = dict(os.environ)
    configure(folder)
    try:
        from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
    finally:
        os.environ.clear()
        os.environ.update(before)
    store = SqlAlchemyStore()
    store.init_db(f"sqlite:///{folder / USERS_FILE}")  # type: ignore[no-untyped-call]
    yield store
    store.engine.dispose()


def test_the_token_becomes_the_password_again_after_any_change(users: Any) -> None:
    ensure_admin(users, TOKEN)
    users.create_user("ada", "hers-and-long-enough")
    for change in ({"password": "changed on the page"}, {"is_admin": False}):
        users.update_user("sumgrad", **change)
        ensure_admin(users, TOKEN)
        assert users.authenticate_user("sumgrad", TOKEN)
        assert users.get_user("sumgrad").is_admin
    ensure_admin(users, "the-next-one-of-the-lab")
    assert not users.authenticate_user("sumgrad", TOKEN)
    assert users.authenticate_user("sumgrad", "the-next-one-of-the-lab")
    users.delete_user("sumgrad")
    ensure_admin(users, TOKEN)
    assert users.authenticate_user("sumgrad", TOKEN)
    assert users.authenticate_user("ada", "hers-and-long-enough"), "other users stay"
    assert not users.get_user("ada").is_admin
