"""The files and rows that the rows of a split were read from, for messages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import FileSpan, locate

#: The number of rows of a file that a message lists.
_LISTED = 3


@dataclass(frozen=True)
class RowLocations:
    """Where rows were read.

    Attributes:
        spans: The files in order.
        numbers: For each row its number over all files, from 0; None if all rows were taken.
        count: Number of rows that were read; the rows after them were made.
    """

    spans: tuple[FileSpan, ...]
    numbers: NDArray[np.intp] | None
    count: int

    def describe(self, rows: Sequence[int]) -> str:
        """Return files and rows, from 1, of some rows.

        >>> locations = RowLocations((FileSpan("a.csv", 10), FileSpan("b.csv", 10)), None, 20)
        >>> locations.describe([11])
        'b.csv, row 2'
        >>> locations.describe([0, 4, 5, 6, 7, 19, 20])
        'a.csv, rows 1, 5, 6 and 2 more; b.csv, row 10; 1 made row'
        """
        by_file: dict[str, list[int]] = {}
        for row in rows:
            if row < self.count:
                number = row if self.numbers is None else int(self.numbers[row])
                file, in_file = locate(self.spans, number)
                by_file.setdefault(file, []).append(in_file)
        described = [f"{file}, {_list(numbers)}" for file, numbers in by_file.items()]
        made = sum(row >= self.count for row in rows)
        if made:
            described.append(f"{made} made row{'s' if made > 1 else ''}")
        return "; ".join(described)


def _list(numbers: list[int]) -> str:
    first = ", ".join(map(str, numbers[:_LISTED]))
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"
