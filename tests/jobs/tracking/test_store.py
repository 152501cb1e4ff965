import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sumgrad.jobs.config.tracking_uri import SQLITE
from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking import store as store_module
from sumgrad.jobs.tracking.store import open_store

OPEN = """
import sys
from sumgrad.jobs.tracking.store import open_store
store = open_store(sys.argv[1])
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
from mlflow.tracking import is_tracking_uri_set
assert not is_tracking_uri_set()
"""


def test_two_processes_create_one_database_without_output(tmp_path: Path) -> None:
    # Under pytest MLflow itself disables its telemetry.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "CI"))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, f"{SQLITE}{tmp_path}/new.db"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    output = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert output == ["", ""]


HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_database_that_a_frozen_process_has_locked_is_unreachable(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".mlflow.db.lock"
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 0.5)
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            holder.send_signal(signal.SIGSTOP)
            with pytest.raises(TrackingUnreachable, match=f"has locked {lock} for 0.5 s") as caught:
                open_store(uri)
            assert f"fuser {lock}" in caught.value.hint
            monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 30.0)
            # The lock is released in time.
            threading.Timer(0.5, holder.kill).start()
            open_store(uri)
        finally:
            holder.kill()


def test_importing_the_package_needs_no_slow_modules() -> None:
    code = (
        "import sys, sumgrad.jobs.tracking, sumgrad.jobs.artifacts.saved_model;"
        "print({'mlflow', 'pydantic', 'pyarrow', 'ray', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="does not exist"):
        open_store(f"{SQLITE}{tmp_path}/no/x.db")


def test_a_file_that_is_no_database_is_refused_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to be looked at" * 30)
    with pytest.raises(TrackingError, match="cannot be used") as caught:
        open_store(f"{SQLITE}{tmp_path}/x.db")
    assert "\n" not in str(caught.value)
