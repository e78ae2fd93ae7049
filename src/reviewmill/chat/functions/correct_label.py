"""
title: Correct this label · 更正标签
author: reviewmill
description: Tell reviewmill which label a comment should have. 告诉 reviewmill 一条评论应该是什么标签。
version: 1.0.0
icon_url: data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3g9IjAgMCAyNCAyNCIgZmlsbD0ibm9uZSIgc3Ryb2tlPSIjODg4IiBzdHJva2Utd2lkdGg9IjIiIHN0cm9rZS1saW5lY2FwPSJyb3VuZCIgc3Ryb2tlLWxpbmVqb2luPSJyb3VuZCI+PHBhdGggZD0iTTIwLjYgMTMuNCAxMy40IDIwLjZhMiAyIDAgMCAxLTIuOCAwTDMgMTNWM2gxMGw3LjYgNy42YTIgMiAwIDAgMSAwIDIuOHoiLz48cGF0aCBkPSJNNy41IDcuNWguMDEiLz48L3N2Zz4=
"""

# An "Action" of Open WebUI: it runs in its process, not in ours, so that it can use nothing of the package reviewmill.
# Source: https://docs.openwebui.com/features/plugin/functions/action

import os
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, Field

TIMEOUT = aiohttp.ClientTimeout(total=60)
CHINESE = {"positive": "正面", "neutral": "中性", "negative": "负面"}


class RefusedError(Exception):
    """What a person is told instead of a confirmation."""


class Action:
    class Valves(BaseModel):
        service: str = Field(default="", description="address of the reviewmill service; empty: as it was started")
        key: str = Field(
            default="",
            description="its API key; empty: as it was started",
            json_schema_extra={"input": {"type": "password"}},
        )

    def __init__(self):
        self.valves = self.Valves()

    async def action(self, body, __user__=None, __event_emitter__=None, __event_call__=None):
        """Ask which comment, which label and why, and keep it."""
        try:
            async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
                said = await self._correct(http, body, __user__ or {}, __event_call__)
        except RefusedError as refused:
            kind, said = "error", str(refused)
        except (aiohttp.ClientError, TimeoutError):
            kind, said = "error", "The reviewmill service does not answer; nothing was kept. 服务没有回应，没有保存。"
        else:
            kind = "success"
        if said:
            await __event_emitter__({"type": "notification", "data": {"type": kind, "content": said}})

    async def _correct(self, http, body, user, ask):
        model = str(body.get("model", ""))
        if not model.startswith("reviewmill-"):
            raise RefusedError("Only answers of the models reviewmill-… have labels. 只有 reviewmill-… 模型的回答有标签。")
        rows = await self._rows(http, body, user, None)
        if rows["row"] is None:
            number = await self._ask_row(ask, rows)
            if number is None:
                return None
            rows = await self._rows(http, body, user, number)
        row = rows["row"]
        label = await self._ask_label(ask, rows, row)
        if label is None:
            return None
        note = await self._ask_note(ask, row, label)
        if note is None:
            return None
        kept = {
            "text": row["text"],
            "task": rows["task"],
            "label": label,
            "model_label": row.get("label"),
            "confidence": row.get("confidence"),
            "note": note or None,
            "author": user.get("email") or user.get("name"),
            "id": f"webui:{user.get('id', '')}:{body.get('chat_id', '')}:{body.get('id', '')}:{row['row']}"[:200],
        }
        given = {name: value for name, value in kept.items() if value is not None}
        answer = await self._send(http, "POST", "/v1/corrections", body, user, json=given)
        if answer is None:
            raise RefusedError("The service keeps no corrections. 服务不能保存更正。")
        return f"Kept: {_shown(label)}. Thank you. 已保存，谢谢。"

    async def _rows(self, http, body, user, number):
        """What the answer is about, and the row of that number, or the only one."""
        path = "/v1/chat/rows" if number is None else f"/v1/chat/rows?row={number}"
        found = await self._send(http, "GET", path, body, user)
        if found is None:
            raise RefusedError("The service knows no comment here (any more). Ask again. 服务里没有这条评论了，请再问一次。")
        return found

    async def _ask_row(self, ask, rows):
        said = await _dialog(
            ask,
            "Which row? · 第几行？",
            f"The number of the row in the table, 1 to {rows['total']:,}. 表格里的行号。",
            placeholder="1",
        )
        if said is None:
            return None
        digits = said.strip()
        if not (digits.isascii() and digits.isdigit() and 1 <= int(digits[:9]) <= rows["total"]):
            raise RefusedError(f"{digits[:20]} is no row; rows are 1 to {rows['total']}. 没有这一行。")
        return int(digits)

    async def _ask_label(self, ask, rows, row):
        now = f"now: {_shown(row['label'])}" if row.get("label") else "no label now"
        said = await _dialog(
            ask,
            "Which label is right? · 正确的标签？",
            f"{_quoted(row['text'])}\n\n({now})",
            input={"type": "select", "options": [{"label": _shown(name), "value": name} for name in rows["labels"]]},
            value=row.get("label") or "",
        )
        if said is None:
            return None
        if said not in rows["labels"]:
            raise RefusedError("No label was chosen; nothing was kept. 没有选择标签。")
        return said

    async def _ask_note(self, ask, row, label):
        return await _dialog(
            ask,
            f"{_shown(label)}: why? · 为什么？",
            f"{_quoted(row['text'])}\n\nA note for whoever reads the corrections; may be left empty. 备注，可以不填。",
            placeholder="note · 备注",
        )

    async def _send(self, http, method, path, body, user, **more):
        """Ask the service; None if it knows nothing of it."""
        base = (self.valves.service or os.environ.get("REVIEWMILL_CHAT_SERVICE", "")).rstrip("/")
        key = self.valves.key or os.environ.get("REVIEWMILL_CHAT_KEY", "")
        if not base:
            raise RefusedError("This function does not know where the reviewmill service is (see its valves).")
        headers = {
            "Authorization": f"Bearer {key}",
            "X-Chat": str(body.get("chat_id", "")),
            "X-Msg": str(body.get("id", "")),
            "X-OpenWebUI-User-Id": quote(str(user.get("id", ""))),
            "X-OpenWebUI-User-Email": quote(str(user.get("email", "")), safe="@"),
            "X-OpenWebUI-User-Name": quote(str(user.get("name", ""))),
        }
        async with http.request(method, base + path, headers=headers, **more) as response:
            if response.status == 404:
                return None
            if response.status >= 400:
                raise RefusedError(await _reason(response))
            return await response.json()


async def _reason(response):
    try:
        told = await response.json(content_type=None)
    except ValueError:
        told = {}
    error = told.get("error") or {}
    why = told.get("detail") or error.get("message")
    return str(why or f"The reviewmill service refused it ({response.status}).")[:300]


async def _dialog(ask, title, message, **more):
    """What somebody wrote; None if they closed the dialog."""
    said = await ask({"type": "input", "data": {"title": title, "message": message, **more}})
    return said if isinstance(said, str) else None


def _shown(label):
    return f"{label} {CHINESE[label]}" if label in CHINESE else label


def _quoted(text):
    """A comment as what it is: nothing in it may look like a link, a picture or a heading of the dialog."""
    short = text if len(text) <= 400 else text[:399] + "…"
    return "> " + "".join(c if c.isalnum() else " " if c.isspace() else f"&#{ord(c)};" for c in short)
