"""`GET /v1/tasks`: what can be found out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from reviewmill.server.access import Analyst
from reviewmill.server.problems import not_found
from reviewmill.server.schemas import LabelInfo, TaskInfo, TaskList, problem_responses
from reviewmill.server.state import service_of
from reviewmill.tasks import Task

router = APIRouter(tags=["tasks"])


@router.get("/v1/tasks", summary="List the tasks", response_model=TaskList, responses=problem_responses())
async def list_tasks(request: Request, _caller: Analyst) -> TaskList:
    """All tasks, the default one first."""
    room = service_of(request).room
    return TaskList(tasks=[_info(task, is_default=task is room.task()) for task in room.tasks().values()])


@router.get("/v1/tasks/{name}", summary="Show a task", response_model=TaskInfo, responses=problem_responses(404))
async def show_task(request: Request, _caller: Analyst, name: Annotated[str, Path(max_length=100)]) -> TaskInfo:
    """One task."""
    room = service_of(request).room
    task = room.tasks().get(name)
    if task is None:
        raise not_found("task of that name")
    return _info(task, is_default=task is room.task())


def _info(task: Task, *, is_default: bool) -> TaskInfo:
    return TaskInfo(
        name=task.name,
        description=task.description,
        language=task.language,
        labels=[LabelInfo(name=label.name, definition=label.definition) for label in task.labels],
        keywords=task.keywords,
        version=task.hash,
        is_default=is_default,
    )
