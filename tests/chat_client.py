"""A chat program for tests: writes its requests as Open WebUI 0.12.4 does."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import httpx2

from reviewmill.outbound import way_to
from service import RunningService, bearer

FILE = "3f2c1a90-6a51-4a53-9a0e-0d6b1f9f7c11"
LINK = re.compile(r"\[(CSV|XLSX|JSONL)\]\(<(http://[^>]+)>\)")
COMMENTS = ["质量很好，很喜欢", "物流太慢了", "是蓝色的", "包装差，不会再买", "很满意"]


def table(comments: list[str], name: str = "评论") -> bytes:
    return f"编号,{name}\n".encode() + "".join(f"{n},{text}\n" for n, text in enumerate(comments, 1)).encode()


class Chat:
    """One account's chat, as Open WebUI writes its requests."""

    def __init__(self, running: RunningService, key: str, *, account: str = "u1", chat: str | None = "c1") -> None:
        self.running = running
        self.key = key
        self.account = account
        self.chat = chat
        self.history: list[dict[str, str]] = []
        self.http = httpx2.Client(base_url=running.url, timeout=60, **way_to(running.url))
        self.number = 0

    def who(self) -> dict[str, str]:
        return bearer(self.key) | {
            "X-OpenWebUI-User-Id": self.account,
            "X-OpenWebUI-User-Email": f"{self.account}@example.com",
            "X-OpenWebUI-User-Name": "%E6%9D%8E%E5%A8%9C",
        }

    def attach(self, content: bytes, name: str = "reviews.csv", file_id: str | None = FILE) -> httpx2.Response:
        headers = self.who() | {"X-File-Name": quote(name), "Content-Type": "text/csv"}
        if file_id is not None:
            headers["X-File-Id"] = file_id
        return self.http.put("/v1/chat/files/process", content=content, headers=headers)

    def body(self, text: str, files: dict[str, str], model: str, *, stream: bool) -> dict[str, Any]:
        sources = "".join(
            f'<source id="{n}" name="reviews.csv" resource-type="file" resource-id="{file}">{content}</source>\n'
            for n, (file, content) in enumerate(files.items(), 1)
        )
        said = f"{sources.strip()}\n{text}" if files else text
        return {"model": model, "stream": stream, "messages": [*self.history, {"role": "user", "content": said}]}

    def headers(self) -> dict[str, str]:
        self.number += 1
        named = {} if self.chat is None else {"X-Chat": self.chat, "X-Msg": f"{self.chat}-m{self.number}"}
        return self.who() | named

    def ask(
        self,
        text: str,
        files: dict[str, str] | None = None,
        model: str = "reviewmill-sentiment",
        *,
        stream: bool = True,
    ) -> str:
        body = self.body(text, files or {}, model, stream=stream)
        reply = self.http.post("/v1/chat/completions", json=body, headers=self.headers())
        assert reply.status_code == 200, reply.text
        answer = streamed(reply.text) if stream else reply.json()["choices"][0]["message"]["content"]
        self.history += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return answer


def streamed(events: str) -> str:
    pieces = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    errors = [piece["error"] for piece in pieces if "error" in piece]
    assert not errors, errors
    return "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"])
