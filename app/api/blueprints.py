"""The blueprint that all resources are made of: our parser, and problems in the documentation of each call."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask_smorest import Blueprint as SmorestBlueprint

from app.api.problems import MEDIA_TYPE
from app.api.requests import Parser
from app.api.schemas import Problem

View = TypeVar("View", bound=Callable[..., Any])


class Blueprint(SmorestBlueprint):
    ARGUMENTS_PARSER = Parser()

    def problems(self, *statuses: int) -> Callable[[View], View]:
        """Documents that a call may answer with these problems."""

        def decorate(view: View) -> View:
            for status in statuses:
                view = self.alt_response(status, schema=Problem, content_type=MEDIA_TYPE)(view)
            return view

        return decorate


def media(*media_types: str) -> dict[str, Any]:
    """OpenAPI content: text in any of these media types."""
    return {media_type: {"schema": {"type": "string"}} for media_type in media_types}
