"""`GET /v1/models`, in OpenAI's form: each task as a model, and the model behind them under its own name."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Request

from reviewmill.server.access import Analyst
from reviewmill.server.problems import not_found
from reviewmill.server.schemas import ModelInfo, ModelList, problem_responses
from reviewmill.server.state import Service, service_of

router = APIRouter(tags=["models"])

PREFIX: Final = "reviewmill-"
"""Stands before a task's name where a model's name is expected."""


@router.get("/v1/models", summary="List the models", response_model=ModelList, responses=problem_responses())
async def list_models(request: Request, _caller: Analyst) -> ModelList:
    """All models; the one behind the tasks only when it is connected."""
    return ModelList(data=_models(service_of(request)))


@router.get(
    "/v1/models/{name:path}", summary="Show a model", response_model=ModelInfo, responses=problem_responses(404)
)
async def show_model(request: Request, _caller: Analyst, name: Annotated[str, Path(max_length=500)]) -> ModelInfo:
    """One model."""
    for model in _models(service_of(request)):
        if model.id == name:
            return model
    raise not_found("model of that name")


def _models(service: Service) -> list[ModelInfo]:
    names = [(f"{PREFIX}{name}", "reviewmill") for name in service.room.tasks()]
    connection = service.room.connection
    if connection is not None:
        names.append((connection.about.model, connection.about.endpoint))
    return [ModelInfo(id=name, created=int(service.started_at), owned_by=owner) for name, owner in names]
