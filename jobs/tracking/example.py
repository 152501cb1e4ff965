"""A few raw rows, kept as a file, that a model's signature in MLflow is made from."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError

if TYPE_CHECKING:
    from pandas import DataFrame


def example_text(rows: NDArray[Any], schema: DataSchema) -> str:
    """Rows as the model's users have them: named columns, or one column of lists.

    Args:
        rows: Raw ones, (n, D_0).
        schema: Names the columns.
    """
    if schema.list_column is not None:
        columns, data = [schema.list_column], [[row.tolist()] for row in rows]
    else:
        # Numbers of any kind are taken as such: whole numbers in the example would bar others.
        columns, data = list(schema.features), rows.astype("float64").tolist()
    return json.dumps({"columns": columns, "data": data})


def read_example(file: Path) -> "DataFrame":
    """The rows that `example_text` wrote.

    Raises:
        JobError: They are not there, or damaged.
    """
    from pandas import DataFrame

    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return DataFrame(kept["data"], columns=kept["columns"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise JobError(f"{file} is damaged: {error}") from error
