"""Handing a job in: checked here, sent through Ray Jobs, once for each id."""

import getpass
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable, SubmissionError
from sumgrad.jobs.service.client.data_paths import Upload, with_upload
from sumgrad.jobs.service.client.expectation import ANSWER_KEY, answer_digest, expected_of
from sumgrad.jobs.service.client.jobs import find_job
from sumgrad.jobs.service.client.preflight import cluster_versions
from sumgrad.jobs.service.client.ray_api import Attempt, RayJobsClient
from sumgrad.jobs.service.client.run_view import look_up_runs
from sumgrad.jobs.service.client.sending import ENTRYPOINT, metadata_of, send
from sumgrad.jobs.service.client.typed import cluster_option
from sumgrad.jobs.service.ids import check_job_id, new_job_id, submission_id
from sumgrad.jobs.service.manifest import JobManifest
from sumgrad.jobs.service.versions import INSTALL_HINT, MUST_MATCH, Versions
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.spec.text import dump_yaml
from sumgrad.jobs.support.redaction import is_redacted, redact_text
from sumgrad.jobs.tracking.metadata import git_tags

#: Whose sumgrad computes: the cluster's own, this one, or this one if the cluster has another.
Code = Literal["auto", "cluster", "local"]
#: Metadata that tells two requests under one id from each other.
DIGEST_KEY = "sumgrad.request"


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be sent.

    Attributes:
        request: What it is.
        name: The spec's.
        upload: Data that go along.
        has_own_id: Whether its owner chose the id.
    """

    request: JobManifest
    name: str
    upload: Upload
    has_own_id: bool = False

    @property
    def digest(self) -> str:
        """Of what was asked for, to tell a repeated submission from another job."""
        digest = hashlib.sha256((self.request.spec_yaml or "").encode())
        for name, file in sorted(self.upload.files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, str]:
        """What Ray keeps beside the job and shows to everybody who may ask."""
        return metadata_of(self.request, self.name) | {DIGEST_KEY: self.digest}

    def as_json(self, cluster: Cluster) -> dict[str, Any]:
        """What would be sent."""
        return {
            "id": self.request.job_id,
            "cluster": cluster.address,
            "entrypoint": ENTRYPOINT,
            "spec": yaml.safe_load(self.request.spec_yaml or "{}"),
            "files": {name: str(file) for name, file in self.upload.files.items()},
            "upload_bytes": self.upload.size,
            "metadata": self.metadata,
            "tags": dict(self.request.tags),
        }


@dataclass(frozen=True)
class Submitted:
    """A job that the cluster has.

    Attributes:
        job_id: Its id.
        submission_id: Of this attempt.
        is_new: False if it was there already.
    """

    job_id: str
    submission_id: str
    is_new: bool


def expect_code(text: str) -> Code:
    """One of `Code`.

    Raises:
        SubmissionError: It is none.
    """
    if text not in get_args(Code):
        raise SubmissionError(f"--code {text} is none of {', '.join(get_args(Code))}")
    return cast("Code", text)


def prepare_submission(
    spec_name: str, overrides: Sequence[str], *, job_id: str | None = None, upload: bool = False
) -> Submission:
    """Check a job and put together what is sent; asks no cluster.

    Args:
        spec_name: A YAML file, or a shipped example.
        overrides: ``key=value`` each.
        job_id: An id that its owner chose.
        upload: Whether data of this machine may go along.

    Raises:
        SpecError: It is no valid spec.
        SubmissionError: It cannot run elsewhere as it is.
        DataNotFound: Its data are not there.
    """
    spec = load_spec(spec_name, overrides, environment=False).spec
    _expect_for_elsewhere(spec)
    sources, files = with_upload(spec, upload=upload)
    # Only what its owner said: for everything else the cluster has its own defaults.
    said = spec.model_dump(mode="json", exclude_unset=True)
    said["data"] |= sources
    said.get("cluster", {}).pop("address", None)
    request = JobManifest(
        job_id=check_job_id(job_id) if job_id is not None else new_job_id(spec.name),
        attempt=1,
        spec_yaml=dump_yaml(said),
        versions=Versions.here(),
        tags=_origin_tags(),
    )
    return Submission(request, spec.name, files, has_own_id=job_id is not None)


def _expect_for_elsewhere(spec: JobSpec) -> None:
    uri = spec.tracking.uri
    if "uri" in spec.tracking.model_fields_set:
        if uri.startswith(("sqlite:", "sqlite+")):
            raise SubmissionError(
                f"tracking.uri: {uri} is a file of this machine, and the job runs on others",
                hint="leave it out, and the cluster's own MLFLOW_TRACKING_URI holds",
            )
        if is_redacted(uri):
            raise _has_password(f"tracking.uri: {uri}")
        expect_no_password(f"tracking.uri: {uri}")
        resolve_tracking_uri(uri, Path.cwd())
    address = spec.cluster.address
    if "address" in spec.cluster.model_fields_set and address not in ("local", "auto"):
        raise SubmissionError(
            f"cluster.address: the job runs on the cluster that it is sent to, not on '{address}'",
            hint="leave it out; --cluster says where it is sent",
        )


def expect_no_password(text: str) -> None:
    """Raise where an address in a text that is about to be sent has a password.

    Raises:
        SubmissionError: It has.
    """
    if redact_text(text) != text:
        raise _has_password(redact_text(text))


def _has_password(shown: str) -> SubmissionError:
    return SubmissionError(
        f"{shown} has a password, and Ray shows what it is sent",
        hint="put it into the environment of the cluster's head: "
        "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD",
    )


def _origin_tags() -> dict[str, str]:
    tags = git_tags(Path.cwd())
    with suppress(OSError, KeyError):
        tags["mlflow.user"] = getpass.getuser()
    return tags


def submit(
    submission: Submission,
    server: RayJobsClient,
    note: Callable[[str], None],
    *,
    code: Code = "auto",
    allow_version_mismatch: bool = False,
) -> Submitted:
    """Send a job; one whose id the cluster has already is not sent again.

    Args:
        submission: What to send.
        server: Where.
        note: Takes a line.
        code: Whose sumgrad computes.
        allow_version_mismatch: Go on although versions differ.

    Raises:
        SubmissionError: The id is another job's.
        ServiceUnreachable: The cluster does not answer, or has other versions.
    """
    described = server.server_info()
    request = submission.request
    name = submission_id(request.job_id, request.attempt)
    if (earlier := _attempt_of(server, name)) is not None:
        same = _same(submission, earlier)
        # It may have been gone on with since.
        return replace(same, submission_id=find_job(server, request.job_id).newest.submission_id)
    _expect_unused(server, submission)
    here, there = request.versions, cluster_versions(server, described)
    has_code = compare_versions(
        here, there, note, code, allow_version_mismatch=allow_version_mismatch
    )
    expected = None if allow_version_mismatch else expected_of(here, there, has_code=has_code)
    request = replace(request, has_code=has_code, expected=expected)
    metadata = submission.metadata | {ANSWER_KEY: answer_digest(there)}
    try:
        send(server, request, metadata, submission.upload)
    except ServiceUnreachable:
        # The answer may have got lost, or somebody else may have been quicker.
        earlier = _attempt_of(server, name)
        if earlier is None:
            raise
        return replace(_same(submission, earlier), is_new=True)
    return Submitted(request.job_id, name, is_new=True)


def _expect_unused(server: RayJobsClient, submission: Submission) -> None:
    """Raise where Ray has forgotten a job of that id, and MLflow has not.

    Raises:
        SubmissionError: It has a run there, and a folder on the cluster.
    """
    job_id = submission.request.job_id
    if submission.has_own_id and look_up_runs(server.cluster, [job_id])[job_id].run_id is not None:
        raise SubmissionError(
            f"there was a job '{job_id}' before, and MLflow has its run",
            hint="its folder is on the cluster, so choose another --id; to go on with that one: "
            f"sumgrad resume {job_id}{cluster_option(server.cluster)}",
        )


def _attempt_of(server: RayJobsClient, name: str) -> Attempt | None:
    try:
        return server.attempt(name)
    except JobNotFound:
        return None


def _same(submission: Submission, there: Attempt) -> Submitted:
    if there.metadata.get(DIGEST_KEY) != submission.digest:
        raise SubmissionError(
            f"the cluster has a job '{submission.request.job_id}' already, which is another one",
            hint="choose another --id",
        )
    return Submitted(submission.request.job_id, there.submission_id, is_new=False)


def compare_versions(
    here: Versions,
    there: Versions,
    note: Callable[[str], None],
    code: Code,
    *,
    allow_version_mismatch: bool,
) -> bool:
    """Whether sumgrad's code has to go along.

    Args:
        here: Of this machine.
        there: Of the cluster's head.
        note: Takes a line for what differs.
        code: Whose sumgrad is to compute.
        allow_version_mismatch: Go on although versions differ.

    Raises:
        ServiceUnreachable: Versions do not fit.
    """
    lacking = [name for name, version in there.libraries.items() if version == "none"]
    if lacking:
        raise ServiceUnreachable(
            f"the cluster's machines lack {', '.join(lacking)}",
            hint=f"install sumgrad {here.sumgrad} there: {INSTALL_HINT}",
        )
    differences = here.differences(there)
    serious = [line for line in differences if line.startswith(MUST_MATCH)]
    if serious and not allow_version_mismatch:
        raise ServiceUnreachable(
            f"the cluster has other versions: {'; '.join(serious)}",
            hint="the weights may come out otherwise there, or the job not run at all; install "
            "the same ones, or send it with --allow-version-mismatch",
        )
    for line in differences:
        note(f"versions differ: {line}")
    if code == "auto":
        has_code = there.code != here.code
        if has_code:
            theirs = "no sumgrad" if there.code == "none" else f"another sumgrad ({there.sumgrad})"
            note(f"the cluster has {theirs}: the code of this one ({here.sumgrad}) goes along")
        return has_code
    if code == "cluster" and there.code == "none":
        raise ServiceUnreachable(
            "the cluster has no sumgrad of its own", hint="--code auto sends this one along"
        )
    if code == "cluster" and there.code != here.code:
        note(f"the cluster's own sumgrad computes: {there.sumgrad} there, {here.sumgrad} here")
    return code == "local"


def dry_run_lines(submission: Submission, cluster: Cluster) -> list[str]:
    """What would be sent, for a person."""
    facts = submission.as_json(cluster)
    files = [f"  file       {name} ← {file}" for name, file in facts["files"].items()]
    spec = [f"    {line}" for line in (submission.request.spec_yaml or "").splitlines()]
    return [
        f"would send to {cluster.label}:",
        f"  id         {facts['id']}",
        f"  runs       {ENTRYPOINT}",
        f"  metadata   {json.dumps(facts['metadata'])}",
        *files,
        "  spec, as its owner said it (for the rest the cluster's defaults hold):",
        *spec,
    ]
