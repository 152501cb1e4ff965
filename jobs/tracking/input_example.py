"""The file with a few raw rows from which MLflow infers a model's signature."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError

if TYPE_CHECKING:
    from pandas import DataFrame


def example_text(rows: NDArray[Any], schema: DataSchema) -> str:
    """Return rows as the users of a model provide them: named columns, or one column of lists.

    Args:
        rows: Raw rows, (n, D_0).
        schema: Names the columns.
    """
    if schema.list_column is not None:
        columns, data = [schema.list_column], [[row.tolist()] for row in rows]
    else:
        # MLflow would infer integer columns from integers, and then refuse floats.
        columns, data = list(schema.features), rows.astype("float64").tolist()
    return json.dumps({"columns": columns, "data": data})


def read_example(file: Path) -> "DataFrame":
    """Return the rows that `example_text` wrote.

    Raises:
        JobError: The file is missing or damaged.
    """
    from pandas import DataFrame

    try:
        example = json.loads(file.read_text(encoding="utf-8"))
        return DataFrame(example["data"], columns=example["columns"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise JobError(f"{file} is damaged: {error}") from error
