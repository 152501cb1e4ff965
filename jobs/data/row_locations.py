"""Where the rows of a role stand in the files, for messages about some of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sumgrad.jobs.data.dataset import FileSpan, locate
from sumgrad.jobs.data.stratified import Indices

#: Rows of a file that are named one by one.
_NAMED = 3


@dataclass(frozen=True)
class RowLocations:
    """Where rows come from.

    Attributes:
        parts: The files that were read, in their order.
        numbers: For each row its number among what was read, from 0; None if all were taken.
        count: How many rows are from the files; those after them were made.
    """

    parts: tuple[FileSpan, ...]
    numbers: Indices | None
    count: int

    def describe(self, rows: Sequence[int]) -> str:
        """Files and rows, from 1, of some rows.

        >>> origin = RowLocations((FileSpan("a.csv", 10), FileSpan("b.csv", 10)), None, 20)
        >>> origin.describe([11])
        'b.csv, row 2'
        >>> origin.describe([0, 4, 5, 6, 7, 19, 20])
        'a.csv, rows 1, 5, 6 and 2 more; b.csv, row 10; 1 made row'
        """
        places: dict[str, list[int]] = {}
        for row in rows:
            if row < self.count:
                read = row if self.numbers is None else int(self.numbers[row])
                file, number = locate(self.parts, read)
                places.setdefault(file, []).append(number)
        named = [f"{file}, {_named(numbers)}" for file, numbers in places.items()]
        made = sum(row >= self.count for row in rows)
        if made:
            named.append(f"{made} made row{'s' if made > 1 else ''}")
        return "; ".join(named)


def _named(numbers: list[int]) -> str:
    first = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"
