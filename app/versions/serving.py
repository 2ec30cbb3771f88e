"""What is to be served: what `models.toml` declares, what was trained, and the defaults that promotions have moved."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy.orm import Session

from app.models.artifact_cache import place
from app.models.artifacts import DEFAULT_CACHE
from app.models.current import current_declarations
from app.models.declarations import Declaration
from app.tables import ModelVersion
from app.versions.events import Promotion, promotions
from app.versions.trained import served_versions


def served_declarations(
    session: Session, models_file: Path, artifact_cache: Path = DEFAULT_CACHE
) -> tuple[Declaration, ...]:
    """What every process is to serve now, with one default for each name; errors are those of `current_declarations`.

    The one place where this is decided. Trained versions are declared with the place in `artifact_cache` that their
    artifacts are to be brought to.
    """
    declared = with_trained(current_declarations(models_file), served_versions(session), artifact_cache)
    return promoted(declared, promotions(session))


def with_trained(
    declared: Sequence[Declaration], versions: Sequence[ModelVersion], artifact_cache: Path
) -> tuple[Declaration, ...]:
    """The declarations, and behind them those of trained versions, each like its entry but for the artifact.

    A version whose entry is declared no more is left out: nothing says which class it is of.
    """
    entries = {(each.name, each.version): each for each in declared}
    trained = [
        replace(
            entries[version.model, version.entry],
            version=version.version,
            artifact=str(place(version.sha256, artifact_cache)),
            sha256=version.sha256,
            default=False,
            preload=False,
        )
        for version in versions
        if (version.model, version.entry) in entries
    ]
    return (*declared, *trained)


def promoted(
    declared: Sequence[Declaration], by_promotion: Mapping[str, Promotion]
) -> tuple[Declaration, ...]:
    """The declarations, where the last promotion of a name decides its default if that version is declared.

    If it is not, what `declared` says holds, until it is declared again.
    """
    versions = {(each.name, each.version) for each in declared}
    moved = {
        name: promotion.version
        for name, promotion in by_promotion.items()
        if (name, promotion.version) in versions
    }
    return tuple(
        replace(each, default=each.version == moved[each.name]) if each.name in moved else each
        for each in declared
    )
