"""Submitting a job: checked here, sent through Ray Jobs, and only once for each id."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sumgrad.cluster.temporary import temporary_directory
from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.config.tracking_uri import USER_AND_PASSWORD, resolve_tracking_uri
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable, SubmissionError
from sumgrad.jobs.service.client.data_paths import prepare_data
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.client.run_view import find_run
from sumgrad.jobs.service.ids import ATTEMPT_KEY, CODE_KEY, JOB_KEY, NAME_KEY, new_job_id
from sumgrad.jobs.service.manifest import ENTRYPOINT, JobManifest
from sumgrad.jobs.service.versions import Versions, check_versions
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.spec.text import dump_yaml
from sumgrad.jobs.support.redaction import is_redacted, redact_text
from sumgrad.jobs.support.source_digest import copy_source
from sumgrad.jobs.tracking.metadata import git_tags, user_tags

#: Seconds for a submission, and bytes per second of a slow line for its upload.
_SEND_TIMEOUT_S, _MIN_BYTES_PER_S = 60.0, 200_000
#: The key of the digest by which a repeated submission differs from another job with the same id.
DIGEST_KEY = "sumgrad.request"


@dataclass(frozen=True)
class Submission:
    """An attempt that is ready to be sent."""

    manifest: JobManifest  #: What the job reads on the cluster.
    name: str  #: The name of the job's spec.
    #: Files to upload, by their paths below the job's folder.
    files: Mapping[str, Path] = field(default_factory=dict)
    #: Whether the user chose the job's id, so that an earlier job may have it.
    has_chosen_id: bool = False

    @property
    def id(self) -> str:
        """The attempt's id in Ray."""
        job_id, attempt = self.manifest.job_id, self.manifest.attempt
        return job_id if attempt == 1 else f"{job_id}~{attempt}"

    @property
    def upload_bytes(self) -> int:
        """The size of the files in bytes."""
        return sum(file.stat().st_size for file in self.files.values())

    @property
    def digest(self) -> str:
        """The digest of the spec and the files."""
        digest = hashlib.sha256((self.manifest.spec_yaml or "").encode())
        for name, file in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, str]:
        """What Ray keeps beside the attempt and shows to every client."""
        return {
            JOB_KEY: self.manifest.job_id,
            NAME_KEY: self.name,
            ATTEMPT_KEY: str(self.manifest.attempt),
            DIGEST_KEY: self.digest,
            CODE_KEY: self.manifest.code,
            "sumgrad.version": self.manifest.versions.sumgrad,
        }

    def as_json(self, cluster: Cluster) -> dict[str, Any]:
        """Return what would be sent; the cluster's defaults hold for the other keys of the spec."""
        return {
            "id": self.manifest.job_id,
            "cluster": cluster.address,
            "entrypoint": ENTRYPOINT,
            "spec": yaml.safe_load(self.manifest.spec_yaml or "{}"),
            "files": {name: str(file) for name, file in self.files.items()},
            "upload_bytes": self.upload_bytes,
            "metadata": self.metadata,
            "tags": dict(self.manifest.tags),
        }


def prepare_submission(
    spec_name: str,
    overrides: Sequence[str],
    *,
    job_id: str | None = None,
    upload: bool = False,
    send_code: bool = True,
    allow_version_mismatch: bool = False,
) -> Submission:
    """Check a job and return what to send, without contacting the cluster.

    Args:
        spec_name: A YAML file, or a shipped example.
        overrides: ``key=value`` each.
        job_id: Chosen by the user; None for a new one.
        upload: Whether data of this machine may be sent.
        send_code: Whether the job runs this machine's sumgrad, and not the cluster's.
        allow_version_mismatch: Whether the job runs although the cluster has other versions.

    Raises:
        SpecError: The spec is invalid.
        SubmissionError: The job cannot run on another machine as it is.
        DataNotFound: Data to upload are missing.
    """
    spec = load_spec(spec_name, overrides, environment=False).spec
    _check_location(spec)
    sources, files = prepare_data(spec, upload=upload)
    # Keys that the user has not set are left to the defaults of the cluster.
    given = spec.model_dump(mode="json", exclude_unset=True)
    given["data"] |= sources
    given.get("cluster", {}).pop("address", None)
    given.pop("output", None)
    manifest = JobManifest(
        job_id=new_job_id(spec.name) if job_id is None else job_id,
        attempt=1,
        spec_yaml=dump_yaml(given),
        versions=Versions.here(),
        has_code=send_code,
        allow_version_mismatch=allow_version_mismatch,
        tags=git_tags(Path.cwd()) | user_tags(),
    )
    return Submission(manifest, spec.name, files, has_chosen_id=job_id is not None)


def submit(submission: Submission, client: RayJobsClient) -> tuple[str, bool]:
    """Send a job unless the cluster has it already.

    Returns:
        The id of its newest attempt in Ray, and whether the job is new.

    Raises:
        SubmissionError: Another job has the id.
        ServiceUnreachable: The cluster does not answer.
        VersionMismatch: It runs another version of Ray.
    """
    manifest = submission.manifest
    ray_version = client.ray_version()
    if _is_sent(submission, client):
        return client.find_job(manifest.job_id).latest.submission_id, False
    if submission.has_chosen_id:
        _check_unused(client, manifest.job_id)
    # The job compares the other versions, before its first step.
    here, allow = manifest.versions, manifest.allow_version_mismatch
    there = replace(here, libraries=here.libraries | {"ray": ray_version})
    check_versions(here, there, has_code=True, allow_mismatch=allow)
    try:
        send(submission, client)
    except ServiceUnreachable:
        # The answer may be lost, or another process may have submitted the job first.
        if not _is_sent(submission, client):
            raise
    return submission.id, True


def send(submission: Submission, client: RayJobsClient) -> None:
    """Send an attempt with its data and code; after `ServiceUnreachable` it may have arrived."""
    with temporary_directory("job-") as temporary:
        folder = temporary / "job"
        folder.mkdir()
        submission.manifest.write(folder)
        for name, file in submission.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
        runtime_env: dict[str, Any] = {"working_dir": str(folder)}
        if submission.manifest.has_code:
            code = temporary / "code"
            code.mkdir()
            runtime_env["py_modules"] = [str(module) for module in copy_source(code)]
        timeout = _SEND_TIMEOUT_S + submission.upload_bytes / _MIN_BYTES_PER_S
        client.submit(submission.id, ENTRYPOINT, runtime_env, submission.metadata, timeout=timeout)


def check_no_password(text: str) -> None:
    """Raise `SubmissionError` if an address in a text that is about to be sent has a password."""
    if redact_text(text) != text or is_redacted(text):
        problem = f"{redact_text(text)} has a password, and Ray shows a job's spec to its users"
        variables = ", ".join(USER_AND_PASSWORD)
        hint = f"put it into the environment of the cluster's head: {variables}"
        raise SubmissionError(problem, hint=hint)


def _check_location(spec: JobSpec) -> None:
    """Raise if the spec names addresses of this machine, another place to run, or a password."""
    uri, address = spec.tracking.uri, spec.cluster.address
    if "uri" in spec.tracking.model_fields_set:
        if uri.startswith(("sqlite:", "sqlite+")):
            raise SubmissionError(
                f"tracking.uri: {uri} is a file on this machine, which the cluster cannot use",
                hint="leave it out to use the cluster's own MLFLOW_TRACKING_URI",
            )
        check_no_password(f"tracking.uri: {uri}")
        resolve_tracking_uri(uri, Path.cwd())
    if "address" in spec.cluster.model_fields_set and address not in ("local", "auto"):
        raise SubmissionError(
            f"cluster.address: the job runs on the cluster that it is sent to, not on '{address}'",
            hint="leave it out; --cluster selects the cluster",
        )
    if spec.output != JobSpec.model_fields["output"].default:
        raise SubmissionError(
            f"output: the job's runs go to its folder on the cluster, not to '{spec.output}'",
            hint="leave it out; SUMGRAD_OUTPUT on the cluster's head is the folder of all jobs",
        )


def _check_unused(client: RayJobsClient, job_id: str) -> None:
    """Raise if MLflow has a run of an earlier job with the same id."""
    run = find_run(client.cluster, job_id)
    if run.run_id is None:
        return
    hint = "its folder is still on the cluster's head: choose another --id"
    if not run.is_deleted:
        hint += f", or resume it: {client.cluster.command(f'resume {job_id}')}"
    raise SubmissionError(f"MLflow has a run of an earlier job '{job_id}'", hint=hint)


def _is_sent(submission: Submission, client: RayJobsClient) -> bool:
    """Return whether the cluster has the same attempt; raise `SubmissionError` for another job."""
    try:
        found = client.get_attempt(submission.id)
    except JobNotFound:
        return False
    if found.metadata.get(DIGEST_KEY) != submission.digest:
        problem = f"the cluster has another job with the id '{submission.manifest.job_id}'"
        raise SubmissionError(problem, hint="choose another --id")
    return True
