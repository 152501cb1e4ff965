"""The record of a finished run, for tests that need a run's directory."""

from pathlib import Path

from sumgrad.jobs.tracking.metadata import DatasetMetadata, RunEnd, RunMetadata, RunRecord

RECORD_OF_A_RUN = RunRecord(
    run_id="job-abc123",
    key="k" * 32,
    started="2026-01-01T00:00:00+00:00",
    # No server listens there, so that deliveries fail at once.
    tracking_uri="http://127.0.0.1:9",
    metadata=RunMetadata(
        name="job",
        experiment="e",
        spec={"seed": 1},
        spec_yaml="seed: 1\n",
        datasets=[DatasetMetadata("training", "d", "s", "x", 3)],
        tags={},
        folder=Path("/runs"),
    ),
    signature={"spec": {"seed": 1}, "data": "x", "microbatch_size": {"train": 32}},
    end=RunEnd("FINISHED", "converged", {"sumgrad.instances_seen": "360"}, 3, False),
)
