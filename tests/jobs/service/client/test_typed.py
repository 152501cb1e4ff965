"""A command that is printed means the same cluster when it is typed."""

import shlex

import pytest

from sumgrad.jobs.config.clusters import (
    Cluster,
    ClusterConfig,
    cluster_config_path,
    select_cluster,
    write_cluster_config,
)
from sumgrad.jobs.service.client.typed import cluster_option

LAB, HOME = "http://lab:8265", "http://home:8265"
V6 = "http://[::1]:8265"


@pytest.fixture
def named() -> None:
    clusters = {"lab": Cluster(LAB, "lab", "http://mlflow"), "home": Cluster(HOME, "home")}
    write_cluster_config(ClusterConfig("home", clusters))


GIVEN = (None, "lab", "home", LAB, HOME, V6, "lab:8265", "other:1")


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("variable", [None, "lab", LAB, V6, "nobody"])
def test_what_is_typed_means_what_was_meant(
    given: str | None, variable: str | None, named: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is None and variable == "nobody":
        return
    if variable is not None:
        monkeypatch.setenv("SUMGRAD_CLUSTER", variable)
    cluster = select_cluster(given)
    words = shlex.split(cluster_option(cluster))
    assert words in ([], ["--cluster", cluster.option])
    assert select_cluster(words[1] if words else None) == cluster
    if given is None:
        assert words == [], "it was not needed before either"


def test_nothing_more_than_needed_is_typed(named: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_option(select_cluster("home")) == ""
    assert cluster_option(select_cluster(HOME)) == ""
    assert cluster_option(select_cluster(LAB)) == " --cluster lab"
    assert cluster_option(select_cluster("other:1")) == " --cluster http://other:1"
    assert cluster_option(select_cluster(V6)) == f" --cluster '{V6}'"


def test_names_that_cannot_be_read_are_no_trouble() -> None:
    cluster_config_path().parent.mkdir(parents=True)
    cluster_config_path().write_text("clusters: [")
    assert cluster_option(Cluster(LAB)) == f" --cluster {LAB}"
