"""A printed command means the same cluster when the user types it."""

import shlex

import pytest

from sumgrad.jobs.config.clusters import (
    Cluster,
    ClusterConfig,
    cluster_config_path,
    select_cluster,
    write_cluster_config,
)

LAB, HOME = "http://lab:8265", "http://home:8265"
V6 = "http://[::1]:8265"


@pytest.fixture
def named() -> None:
    clusters = {
        "lab": Cluster(address=LAB, name="lab", tracking_uri="http://mlflow"),
        "home": Cluster(address=HOME, name="home"),
    }
    write_cluster_config(ClusterConfig(current="home", clusters=clusters))


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("given", [None, "lab", "home", LAB, HOME, V6, "lab:8265", "other:1"])
@pytest.mark.parametrize("variable", [None, "lab", LAB, V6])
def test_the_option_selects_the_same_cluster(
    given: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("SUMGRAD_CLUSTER", variable)
    cluster = select_cluster(given)
    program, command, *option = shlex.split(cluster.command("jobs"))
    assert (program, command) == ("sumgrad", "jobs")
    assert option in ([], ["--cluster", cluster.name or cluster.address])
    assert select_cluster(option[1] if option else None) == cluster
    if given is None:
        assert option == []


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    ("given", "option"),
    [
        *(("home", ""), (HOME, ""), (LAB, " --cluster lab")),
        *(("other:1", " --cluster http://other:1"), (V6, f" --cluster '{V6}'")),
    ],
)
def test_the_option_is_as_short_as_possible(given: str, option: str) -> None:
    assert select_cluster(given).command("logs -f x") == f"sumgrad logs -f x{option}"


def test_an_unreadable_configuration_is_no_obstacle() -> None:
    cluster_config_path().parent.mkdir(parents=True)
    cluster_config_path().write_text("clusters: [")
    assert Cluster(address=LAB).command("jobs") == f"sumgrad jobs --cluster {LAB}"
