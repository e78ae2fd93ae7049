"""`DELETE /v1/comments`: everything that is kept about a text, or about a customer's comments."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from reviewmill.server.access import Analyst
from reviewmill.server.forget import forget
from reviewmill.server.problems import invalid
from reviewmill.server.schemas import CustomerId, Deleted, Sha256, problem_responses
from reviewmill.server.state import service_of

router = APIRouter(tags=["comments"])


@router.delete("/v1/comments", summary="Delete comments", response_model=Deleted, responses=problem_responses())
async def delete_comments(
    request: Request,
    caller: Analyst,
    text_sha256: Annotated[
        Sha256 | None, Query(description="SHA-256 of the comment's text in UTF-8, in lower-case hexadecimal.")
    ] = None,
    customer_id: Annotated[CustomerId | None, Query(description="The customer whose comments are to go.")] = None,
) -> Deleted:
    """Delete a text, or all comments of a customer: answers, corrections, and rows of jobs.

    Your own; with the scope admin, everybody's. Exactly one of the two must be given.
    """
    if (text_sha256 is None) == (customer_id is None):
        raise invalid("query", "exactly one of text_sha256 and customer_id is needed.")
    return await forget(service_of(request), caller, text_sha256=text_sha256, customer_id=customer_id)
