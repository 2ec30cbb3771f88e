"""What every view works with, kept on the Flask app."""

from dataclasses import dataclass
from threading import Semaphore
from typing import cast

from flask import current_app

from app.cache.asking import OnlineCache
from app.config import Settings
from app.data.objects import Storage
from app.db import Database
from app.models.registry import Registry

EXTENSION = "twofold"


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    database: Database
    registry: Registry
    storage: Storage
    cache: OnlineCache
    waiting: Semaphore
    """What a request holds while it waits for a job: half of the threads are for those that do not."""
    at_stores: Semaphore
    """The same while it works with an object store, which may take minutes to answer."""


def services() -> Services:
    """Those of the app that answers the current request."""
    return cast(Services, current_app.extensions[EXTENSION])
