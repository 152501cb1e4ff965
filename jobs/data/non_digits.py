"""The rows of the reject class: each role's own non-digits, and the test's by kind."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sumgrad.jobs.data.out_of_distribution import make_out_of_distribution
from sumgrad.jobs.data.splits import RawSplit, Split
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec, RejectSpec
from sumgrad.model.random_streams import RandomStream, Stream


def add_out_of_distribution(
    spec: JobSpec, roles: Mapping[Split, RawSplit], shape: tuple[int, int] | None
) -> tuple[dict[Split, RawSplit], dict[str, RawSplit]]:
    """Each role with non-digits made of its own digits, and the test's non-digits by kind.

    Args:
        spec: Says which kinds, and how many.
        roles: Digits only.
        shape: Height and width of an image; None where rows are no images.

    Returns:
        The roles, digits first; and the test's non-digits by kind, those of the unseen kinds as
        many as there are test digits. Without a reject class the roles as they are, and nothing.

    Raises:
        SpecError: The rows are no images.
    """
    reject = spec.data.reject
    if reject is None:
        return dict(roles), {}
    if shape is None:
        raise SpecError("non-digits are made from images", key="data.reject")
    stream = RandomStream(spec.seed, Stream.OUT_OF_DISTRIBUTION)
    extended: dict[Split, RawSplit] = {}
    by_kind: dict[str, RawSplit] = {}
    for role in sorted(roles):
        digits = roles[role]
        # As many of each kind, and one of each at least.
        count = max(1, round(len(digits.x) * reject.ratio / len(reject.kinds)))
        made: dict[str, RawSplit] = {
            k: _make(k, digits, shape, count, reject, stream) for k in reject.kinds
        }
        extended[role] = _joined([digits, *made.values()])
        by_kind |= made if role == "test" else {}
    if "test" in roles:
        digits = roles["test"]
        for kind in reject.unseen:
            by_kind[kind] = _make(kind, digits, shape, len(digits.x), reject, stream)
    return extended, by_kind


def _make(
    kind: str,
    digits: RawSplit,
    shape: tuple[int, int],
    count: int,
    reject: RejectSpec,
    stream: RandomStream,
) -> RawSplit:
    x = make_out_of_distribution(kind, digits.x, digits.labels, shape, count, stream=stream)
    labels = np.full(count, reject.label, dtype=object)
    made = replace(digits.origin, count=0)
    return RawSplit(x, labels, f"{kind} from {digits.source}", made)


def _joined(pieces: list[RawSplit]) -> RawSplit:
    dtype = pieces[0].x.dtype
    return RawSplit(
        np.concatenate([piece.x.astype(dtype, copy=False) for piece in pieces]),
        np.concatenate([piece.labels.astype(object) for piece in pieces]),
        pieces[0].source,
        pieces[0].origin,
    )
