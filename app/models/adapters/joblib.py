"""The adapter `joblib`: a scikit-learn estimator or pipeline that was saved with joblib or pickle."""

from collections.abc import Mapping
from pathlib import Path

from app.models.adapters.estimators import Estimator
from app.models.adapters.fields import artifact_of
from app.models.extras import needs

with needs("joblib"):
    import joblib


class Joblib(Estimator):
    """Any fitted estimator with `predict`. Reading the file runs the code that is in it: only take what you trust."""

    artifact_runs_code = True

    def load(
        self,
        artifact: Path | None,
        *,
        probabilities: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """`columns = { name = "number" | "integer" | "string" | "boolean" | "any" }` corrects what is derived."""
        estimator = joblib.load(artifact_of("joblib", artifact))
        self.serve(estimator, probabilities=probabilities, columns=columns)
