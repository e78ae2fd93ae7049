"""`PUT /v1/chat/files/process`: Open WebUI's *external document loader*. A file that is attached to a chat comes here.

Open WebUI hands models only the text that a loader makes of a file. So the loader keeps the file as it is, and the text
only names it; when a question with that text comes to a model `reviewmill-…`, the whole file is analysed.

Errors are plain text in two languages and not problem documents: Open WebUI shows people what the loader answered.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse

from reviewmill.errors import InputError, OutputError, ReviewmillError
from reviewmill.server.access import Caller, require
from reviewmill.server.face.sources import FILE_ID, marker
from reviewmill.server.jobs.intake import UploadTooLargeError
from reviewmill.server.schemas import json_response, problem_responses
from reviewmill.server.state import service_of
from reviewmill.server.talk.kinds import KNOWN
from reviewmill.server.talk.speaker import speaker_of

router = APIRouter(tags=["chat"])

_CHINESE: Final = {
    413: "文件太大，没有收下。",
    422: f"这个文件不能作为评论读取。可以用的格式：{KNOWN}；第一行请写列名，评论那一列叫“评论”。",
    507: "服务的磁盘已满，文件没有收下。",
}
_EITHER: Final[dict[str, Any]] = {"text/plain": {"schema": {"type": "string"}}} | problem_responses()[422]["content"]
_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": said, "content": _EITHER}
    for status, said in ((413, "It is too large."), (422, "It cannot be read as comments."), (507, "The disk is full."))
}


class Processed(BaseModel):
    """What the loader makes of a file."""

    page_content: str = Field(description="text that names the file, for a message to a model")
    metadata: dict[str, str | int] = Field(description="facts about the file")


@router.put(
    "/v1/chat/files/process",
    summary="Take in a file that is attached to a chat",
    response_model=Processed,
    responses={
        **problem_responses(),
        **_REFUSED,
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def process(
    request: Request,
    caller: Annotated[Caller, Depends(require("jobs", "chat"))],
    x_file_id: Annotated[str | None, Header(description="what the chat program calls it")] = None,
    x_file_name: Annotated[str | None, Header(description="its name, percent-encoded beyond ASCII")] = None,
    x_filename: Annotated[str | None, Header(description="its name, if the other one is not sent")] = None,
) -> Response:
    """Keep a file: CSV, TSV, TXT, JSONL, JSON, XLSX or Parquet, found by its content and its name."""
    service = service_of(request)
    if x_file_id is not None and not FILE_ID.fullmatch(x_file_id):
        return _refused(422, "X-File-Id must be 8 to 100 letters, digits, hyphens, underscores or dots.")
    try:
        file = await service.talk.attachments.take(
            request.stream(),
            speaker=speaker_of(request.headers, caller),
            file_id=x_file_id,
            name=_name(x_file_name or x_filename),
        )
    except UploadTooLargeError as error:
        return _refused(413, _said(error))
    except InputError as error:
        return _refused(422, _said(error))
    except OutputError as error:
        return _refused(507, _said(error))
    facts: dict[str, Any] = {"file_id": file.file_id, "rows": file.rows, "format": file.format, "size": file.size}
    return json_response({"page_content": marker(file.file_id, file.rows), "metadata": facts})


def _name(header: str | None) -> str | None:
    # Starlette reads headers as Latin-1; whoever sends UTF-8 unencoded means UTF-8.
    if header is None:
        return None
    return unquote(header.encode("latin-1", "replace").decode("utf-8", "replace"))


def _said(error: ReviewmillError) -> str:
    return f"{error.message} {error.hint}" if error.hint else error.message


def _refused(status: int, message: str) -> Response:
    return PlainTextResponse(f"{message}\n{_CHINESE[status]}", status)
