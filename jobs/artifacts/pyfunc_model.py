"""The MLflow side of a saved model, as MLflow's models-from-code wants it: one file that it runs.

A copy of this file goes into each logged model, next to a private copy of the modules that it
imports (see jobs/artifacts/code_copy.py): it works where sumgrad is not installed.
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
    """Predictions from raw rows: a DataFrame in, a DataFrame of named columns out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the saved-model folder, the artifact ``saved_model``."""
        # Here and not above: MLflow runs this file once before the copied modules are in place.
        from pathlib import Path

        from sumgrad.jobs.artifacts.saved_model import load_model

        self._saved: SavedModel = load_model(Path(context.artifacts["saved_model"]))

    # MLflow takes both shapes of this method, with a context and without. The hint is one that it
    # leaves alone; any other has it warn at each load.
    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]
        """Predict raw, unscaled rows.

        Args:
            model_input: The feature columns, in any order and among others; or one column of
                lists where the model was trained on one; or an array, (N, D_0) or (N, …) images.

        Raises:
            ValueError: Columns are missing, or values are no finite numbers.
        """
        saved = self._saved
        raw = _finite(_matrix(model_input, saved.schema), saved.schema)
        x = saved.schema.scaling.apply(raw, saved.network.dtype)
        return pd.DataFrame(saved.predict_columns(x), index=getattr(model_input, "index", None))


def _matrix(rows: object, schema: "DataSchema") -> NDArray[np.generic]:
    """Raw rows as one matrix (N, D_0), the columns in the schema's order."""
    if not isinstance(rows, pd.DataFrame):
        array = np.asarray(rows)
        return _expect_width(array.reshape(len(array), -1), schema)
    wanted = list(schema.features) if schema.list_column is None else [schema.list_column]
    missing = [name for name in wanted if name not in rows.columns]
    if missing:
        raise ValueError(f"columns are missing: {', '.join(missing)}")
    if schema.list_column is not None:
        lists = [np.asarray(row).reshape(-1) for row in rows[schema.list_column]]
        return _expect_width(np.stack(lists), schema)
    return rows[wanted].to_numpy()


def _expect_width(matrix: NDArray[np.generic], schema: "DataSchema") -> NDArray[np.generic]:
    if matrix.shape[1] != schema.width:
        raise ValueError(f"rows have {matrix.shape[1]} features, the model takes {schema.width}")
    return matrix


def _finite(matrix: NDArray[np.generic], schema: "DataSchema") -> NDArray[np.float64]:
    """The matrix as numbers, none of which is missing or infinite."""
    try:
        numbers = matrix.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a feature is not a number: {error}") from None
    odd = np.argwhere(~np.isfinite(numbers))
    if odd.size:
        row, column = odd[0]
        raise ValueError(
            f"column '{schema.features[column]}', row {row + 1}: {numbers[row, column]} "
            "is not a finite number"
        )
    return numbers


set_model(SumgradModel())
