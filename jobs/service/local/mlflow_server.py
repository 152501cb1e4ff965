"""Run an MLflow server with a login.

Usage: ``python -P -m sumgrad.jobs.service.local.mlflow_server TOKEN FOLDER OPTION…``.

Who opens the cluster opens its MLflow: the user is ``sumgrad``, and the password is the content of
the file TOKEN. FOLDER keeps who else may log in; the options are those of ``mlflow server``.
"""

import os
import secrets
import sys
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

from sumgrad.jobs.config.credentials import USER
from sumgrad.jobs.config.tokens import read_token
from sumgrad.jobs.errors import ClusterConfigError

if TYPE_CHECKING:
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

#: MLflow takes no shorter password.
SHORTEST = 12
#: In its folder: who may log in, and MLflow's settings for that.
USERS, SETTINGS = "users.db", "login.ini"
#: To check a password takes MLflow a tenth of a second of computing, at every request. One that was
#: right counts as such for so long, even if it was changed on the page meanwhile.
REMEMBERS_S = 60
#: They would go before the settings.
_OTHERS = ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD")


def main(arguments: Sequence[str]) -> None:
    """Serve until the process is told to end.

    Raises:
        ClusterConfigError: The file holds no token, or one that MLflow does not take.
        OSError: The folder cannot be written.
    """
    token_file, folder, *options = arguments
    token = read_password(Path(token_file))
    # Nobody else reads what MLflow keeps.
    os.umask(0o077)
    settle(Path(folder).absolute())
    from mlflow.server.auth import auth_config, store

    store.init_db(auth_config.database_uri)  # type: ignore[no-untyped-call]
    admit(store, token)
    from mlflow.cli import cli

    cli.main(["server", "--app-name", "basic-auth", *options], prog_name="mlflow")


def read_password(file: Path) -> str:
    """The password of ``sumgrad``.

    Raises:
        ClusterConfigError: The file holds no token, or one that MLflow does not take.
    """
    token = read_token(file, "the token file")
    if len(token) < SHORTEST:
        raise ClusterConfigError(
            f"the token in {file} has fewer than {SHORTEST} characters, and MLflow takes none such",
            hint="'openssl rand -hex 32' makes a token",
        )
    return token


def settle(folder: Path) -> None:
    """Have MLflow keep those who may log in in a folder; to be done before it is imported.

    Raises:
        OSError: The folder cannot be written.
    """
    users = folder / USERS
    # Also one that a copy, or another umask, has left open to others.
    users.touch(0o600)
    users.chmod(0o600)
    settings = ConfigParser(interpolation=None)
    settings["mlflow"] = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{users}".replace("%", "%%"),
        "admin_username": USER,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": str(REMEMBERS_S),
    }
    with (folder / SETTINGS).open("w") as file:
        settings.write(file)
    for name in _OTHERS:
        os.environ.pop(name, None)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / SETTINGS)
    # What it has no rule for it refuses.
    os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = "true"
    # Signs the one form that it has. Who had it open at a restart opens it again.
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(32)


def admit(store: "SqlAlchemyStore", token: str) -> None:
    """Have ``sumgrad`` be an administrator whose password is the token, whatever was before."""
    if not store.has_user(USER):
        store.create_user(USER, token, is_admin=True)
    elif not store.authenticate_user(USER, token):
        store.update_user(USER, password=token, is_admin=True)
    else:
        store.update_user(USER, is_admin=True)


def _work() -> int:
    main(sys.argv[1:])
    return 0


if __name__ == "__main__":
    from sumgrad.jobs.cli.errors import run_guarded

    sys.exit(run_guarded(_work, debug=False))
