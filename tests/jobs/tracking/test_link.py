"""The run in MLflow is made once and told whole, wherever its server goes away meanwhile."""

from collections.abc import Callable

import pytest

from sumgrad.jobs.errors import TrackingError
from sumgrad.jobs.tracking import DirectClient, Link, RunMetadata, Store
from sumgrad.jobs.tracking.client import TrackingClient


@pytest.mark.parametrize(
    "call", ["get_experiment_by_name", "create_run", "log_batch", "log_inputs", "log_text"]
)
def test_an_outage_at_any_call_is_made_up_for(
    store: Store,
    direct: DirectClient,
    facts: RunMetadata,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Link(direct, facts, "key")
    made: list[str] = []
    link.on_made = lambda linked: made.append(linked.run_id)
    with monkeypatch.context() as away:
        away.setattr(store.client, call, _away(getattr(store.client, call)))
        with pytest.raises(TrackingError, match="away"):
            link.linked()
    assert (link.linked_now, made) == (None, [])
    linked = link.linked()
    assert linked is link.linked_now
    assert made == [linked.run_id]
    (run,) = store.client.search_runs([linked.experiment_id])
    assert run.info.run_id == linked.run_id
    assert run.data.params["seed"] == "7"
    assert run.inputs is not None
    assert len(run.inputs.dataset_inputs) == 2
    assert [file.path for file in store.client.list_artifacts(linked.run_id)] == ["spec.yaml"]


def _away(call: Callable[..., object]) -> Callable[..., object]:
    """The call's answer does not come back, whatever it did."""

    def away(*arguments: object, **options: object) -> object:
        call(*arguments, **options)
        raise OSError("away")

    return away


def test_a_run_that_is_known_is_not_told_again(
    store: Store, direct: DirectClient, facts: RunMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = Link(direct, facts, "key").linked().run_id
    monkeypatch.setattr(store.client, "log_batch", _away(store.client.log_batch))
    again = Link(direct, facts, "key", run_id=run_id, made_before=True)
    assert again.linked().run_id == run_id


def test_a_run_that_another_process_made_is_found_by_its_key(
    client: TrackingClient, facts: RunMetadata
) -> None:
    run_id = Link(client, facts, "key").linked().run_id
    assert Link(client, facts, "key", made_before=True).linked().run_id == run_id
    assert Link(client, facts, "other", made_before=True).linked().run_id != run_id
