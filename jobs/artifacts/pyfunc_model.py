"""The pyfunc model of a logged model, as a file that MLflow executes (models from code).

Each logged model has a copy of this file and of the modules that it imports, which
`sumgrad.jobs.artifacts.code_copy` makes, so it loads where sumgrad is not installed.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sumgrad.jobs.artifacts.saved_model import SavedModel
    from sumgrad.jobs.data.schema import DataSchema


class SumgradModel(PythonModel):
    """A model from raw rows to a DataFrame of named prediction columns."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the saved-model folder, the artifact ``saved_model``."""
        # Imported here, because MLflow executes this file before the copied modules are importable.
        from pathlib import Path

        from sumgrad.jobs.artifacts.saved_model import load_model

        self._saved: SavedModel = load_model(Path(context.artifacts["saved_model"]))

    # MLflow accepts it with and without a context, and warns of other type hints at each load.
    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]
        """Predict raw, unscaled rows.

        Args:
            model_input: A DataFrame with the feature columns, in any order and among others, or
                with the one column of lists that the model was trained on; or an array, (N, D_0)
                or images (N, …).

        Raises:
            ValueError: Columns are missing, or a value is not a finite number.
        """
        saved = self._saved
        raw = _finite(_matrix(model_input, saved.schema), saved.schema)
        x = saved.schema.scaling.apply(raw, saved.network.dtype)
        return pd.DataFrame(saved.predict_columns(x), index=getattr(model_input, "index", None))


def _matrix(rows: object, schema: "DataSchema") -> NDArray[np.generic]:
    """Return raw rows as one matrix (N, D_0), the columns in the schema's order."""
    if not isinstance(rows, pd.DataFrame):
        array = np.asarray(rows)
        matrix = array.reshape(len(array), -1)
    else:
        wanted = list(schema.columns_to_read)
        if missing := [name for name in wanted if name not in rows.columns]:
            raise ValueError(f"columns are missing: {', '.join(missing)}")
        if schema.list_column is None:
            return rows[wanted].to_numpy()
        matrix = np.stack([np.asarray(row).reshape(-1) for row in rows[schema.list_column]])
    if matrix.shape[1] != schema.width:
        raise ValueError(f"rows have {matrix.shape[1]} features, the model takes {schema.width}")
    return matrix


def _finite(matrix: NDArray[np.generic], schema: "DataSchema") -> NDArray[np.float64]:
    """Return the matrix as finite numbers."""
    try:
        numbers = matrix.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a feature is not a number: {error}") from None
    invalid = np.argwhere(~np.isfinite(numbers))
    if invalid.size:
        row, column = invalid[0]
        cell = f"column '{schema.features[column]}', row {row + 1}"
        raise ValueError(f"{cell}: {numbers[row, column]} is not a finite number")
    return numbers


set_model(SumgradModel())
