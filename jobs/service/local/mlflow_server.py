"""MLflow's server with a login: ``python -P -m …local.mlflow_server TOKEN FOLDER OPTION…``.

The user is ``sumgrad`` and the password is the content of the file TOKEN, the cluster's token.
FOLDER keeps further users; the options are those of ``mlflow server``.
"""

import argparse
import os
import secrets
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sumgrad.jobs.config.credentials import USER
from sumgrad.jobs.config.tokens import read_token
from sumgrad.jobs.errors import ClusterConfigError
from sumgrad.jobs.support.error_report import run_guarded

if TYPE_CHECKING:
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

MIN_PASSWORD_LENGTH = 12  #: MLflow accepts no shorter password.
USERS_FILE, SETTINGS_FILE = "users.db", "login.ini"
#: Seconds for which MLflow accepts a password without checking it again, even if it was changed in
#: between. A check takes a tenth of a second of computing, and each request needs one.
PASSWORD_CACHE_S = 60


def main() -> NoReturn:
    """Serve until the process is terminated."""
    arguments = parse_arguments(sys.argv[1:])
    token = read_password(arguments.token)
    # Other users of the machine must not read what MLflow writes.
    os.umask(0o077)
    configure(arguments.folder.absolute())
    from mlflow.server.auth import auth_config, store

    store.init_db(auth_config.database_uri)  # type: ignore[no-untyped-call]
    ensure_admin(store, token)
    from mlflow.cli import cli

    cli.main(["server", "--app-name", "basic-auth", *arguments.options], prog_name="mlflow")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return ``token``, ``folder`` and ``options``, or exit with the usage."""
    parser = argparse.ArgumentParser(
        prog="python -P -m sumgrad.jobs.service.local.mlflow_server",
        usage="%(prog)s TOKEN FOLDER [OPTION ...]",
        description="Run 'mlflow server' with a login.",
    )
    parser.add_argument("token", metavar="TOKEN", type=Path, help="the file with the password")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where MLflow keeps its users")
    parser.add_argument(
        "options", metavar="OPTION", nargs=argparse.REMAINDER, help="options of 'mlflow server'"
    )
    return parser.parse_args(arguments)


def read_password(file: Path) -> str:
    """Return the password of ``sumgrad``, or raise `ClusterConfigError` if MLflow refuses it."""
    token = read_token(file, "the token file")
    if len(token) < MIN_PASSWORD_LENGTH:
        problem = f"the token in {file} has fewer than {MIN_PASSWORD_LENGTH} characters"
        hint = "'openssl rand -hex 32' makes a token"
        raise ClusterConfigError(f"{problem}, which MLflow does not accept", hint=hint)
    return token


def configure(folder: Path) -> None:
    """Make MLflow keep its users in a folder, which is created if it is missing.

    Call it before MLflow is imported.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    users = folder / USERS_FILE
    # Another umask, or a copy, may have left an existing file readable by others.
    users.touch(0o600)
    users.chmod(0o600)
    settings = ConfigParser(interpolation=None)
    settings["mlflow"] = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{users}".replace("%", "%%"),
        "admin_username": USER,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": str(PASSWORD_CACHE_S),
    }
    with (folder / SETTINGS_FILE).open("w") as file:
        settings.write(file)
    # MLflow prefers these variables to its settings.
    for name in ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        os.environ.pop(name, None)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / SETTINGS_FILE)
    # Refuse requests that no rule covers.
    os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = "true"
    # Signs the sign-up form. A form that was open during a restart has to be loaded again.
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(32)


def ensure_admin(store: "SqlAlchemyStore", token: str) -> None:
    """Make ``sumgrad`` an administrator with the token as its password."""
    if not store.has_user(USER):
        store.create_user(USER, token, is_admin=True)
    elif store.authenticate_user(USER, token):
        store.update_user(USER, is_admin=True)
    else:
        store.update_user(USER, password=token, is_admin=True)


if __name__ == "__main__":
    sys.exit(run_guarded(main, debug=False))
