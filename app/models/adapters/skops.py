"""The adapter `skops`: a scikit-learn estimator in skops's format, which runs no code of its file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from app.models.adapters.estimators import Estimator
from app.models.adapters.fields import artifact_of
from app.models.contract import ContractError
from app.models.extras import needs

with needs("skops"):
    import skops.io


class Skops(Estimator):
    """Any fitted estimator that `skops.io.dump` could write."""

    def load(
        self,
        artifact: Path | None,
        *,
        trusted: Sequence[str] = (),
        probabilities: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """`trusted` names the types in the file that skops does not know to be harmless, and you do."""
        path = artifact_of("skops", artifact)
        doubtful = [found for found in skops.io.get_untrusted_types(file=path) if found not in trusted]
        if doubtful:
            listed = ", ".join(f'"{found}"' for found in doubtful)
            raise ContractError(
                "artifact holds types that are not known to be harmless: read what they do, and if you trust them "
                f"add trusted = [{listed}] to options in models.toml"
            )
        estimator = skops.io.load(path, trusted=list(trusted))
        self.serve(estimator, probabilities=probabilities, columns=columns)
