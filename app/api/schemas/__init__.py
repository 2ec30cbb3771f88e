"""The shapes of requests and responses: what marshmallow checks, what it writes, what OpenAPI shows."""

from app.api.schemas.fields import Page
from app.api.schemas.inputs import (
    InputList,
    InputQuery,
    InputSchema,
    PresignedUpload,
    Registration,
    UploadQuery,
    UploadTarget,
)
from app.api.schemas.jobs import JobList, JobQuery, JobRequest, JobSchema, JobStory, JobWait, Repeatable
from app.api.schemas.models import (
    ArticlePredictions,
    Items,
    ModelList,
    ModelSchema,
    Predictions,
    Preferred,
    PromotionSchema,
)
from app.api.schemas.problems import Problem
from app.api.schemas.schedules import ScheduleDetail, ScheduleList, ScheduleRequest

__all__ = [
    "ArticlePredictions",
    "InputList",
    "InputQuery",
    "InputSchema",
    "Items",
    "JobList",
    "JobQuery",
    "JobRequest",
    "JobSchema",
    "JobStory",
    "JobWait",
    "ModelList",
    "ModelSchema",
    "Page",
    "Predictions",
    "Preferred",
    "PresignedUpload",
    "Problem",
    "PromotionSchema",
    "Registration",
    "Repeatable",
    "ScheduleDetail",
    "ScheduleList",
    "ScheduleRequest",
    "UploadQuery",
    "UploadTarget",
]
