"""The routes of MLflow's server with a login, for `test_mlflow_login`."""

import json
import os
from pathlib import Path
from typing import Any

from sumgrad.jobs.service.local.mlflow_server import configure


def main() -> None:
    """Write all routes of the server, those of Flask and those of FastAPI, to ``routes.json``."""
    configure(Path.cwd())
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"
    from mlflow.server import app as flask
    from mlflow.server import auth

    auth.store.init_db(auth.auth_config.database_uri)  # type: ignore[no-untyped-call]
    auth.store.create_user("sumgrad", "long enough a password")
    todo: list[Any] = list(auth.create_app().routes)
    rules = flask.url_map.iter_rules()
    found = [(method, rule.rule) for rule in rules for method in rule.methods or ()]
    while todo:
        route = todo.pop()
        todo += getattr(getattr(route, "original_router", None), "routes", [])
        found += [(method, route.path) for method in getattr(route, "methods", None) or ()]
    Path("routes.json").write_text(json.dumps(sorted(set(found))))
