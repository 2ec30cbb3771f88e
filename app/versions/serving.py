"""What is to be served: what `models.toml` declares, with the defaults that promotions have moved."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy.orm import Session

from app.models.declarations import Declaration, read_declarations
from app.versions.events import Promotion, promotions


def served_declarations(session: Session, models_file: Path) -> tuple[Declaration, ...]:
    """What every process is to serve now, with one default for each name; `ConfigurationError` if the file is wrong.

    The one place where this is decided: what is served and stands in no file is to be added here.
    """
    return promoted(read_declarations(models_file), promotions(session))


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
