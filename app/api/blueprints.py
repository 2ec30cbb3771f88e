"""The blueprint that all resources are made of: our parser, and problems in the documentation of each call."""

from collections.abc import Callable
from typing import Any, TypeVar

from flask_smorest import Blueprint as SmorestBlueprint

from app.api.problems import MEDIA_TYPE
from app.api.requests import Parser
from app.api.schemas import Problem
from app.data.formats import Format

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


def media(*formats: Format) -> dict[str, Any]:
    """OpenAPI content in any of these formats: text, or bytes that are none."""
    return {
        format.media_type: {"schema": {} if format is Format.PARQUET else {"type": "string"}}
        for format in formats
    }
