"""Stands where Open WebUI's interpreter would, and answers as much of its API as the chat's start needs.

usage: fake_webui.py -I -u -m uvicorn open_webui.main:app --host HOST --port PORT …

What it is told lies in `DATA_DIR/state.json`, which a test can read; `POST /fake/change` replaces parts of it. Its
environment is in `env.json`. If
`DATA_DIR/crash` exists, it ends at once with status 7. The real Open WebUI is in test_chat_real.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DATA = Path(os.environ["DATA_DIR"])
STATE = DATA / "state.json"
ONE_AT_A_TIME = threading.Lock()


def load() -> dict[str, Any]:
    if STATE.exists():
        return json.loads(STATE.read_text("utf-8"))
    me = {"id": "0", "email": os.environ["WEBUI_ADMIN_EMAIL"], "name": "machine", "role": "admin"}
    passwords = {me["email"]: os.environ["WEBUI_ADMIN_PASSWORD"]}
    state = {"users": [me], "passwords": passwords, "functions": {}, "models": [], "feedbacks": [], "asked": []}
    return state | {"connections": connections(), "valves": {}, "token": "token"}


def save(state: dict[str, Any]) -> None:
    """Whole or not at all: a test may read it in the same moment."""
    new = STATE.with_suffix(".new")
    new.write_text(json.dumps(state), "utf-8")
    new.replace(STATE)


def connections() -> dict[str, Any]:
    return {
        "ENABLE_OPENAI_API": True,
        "OPENAI_API_BASE_URLS": os.environ["OPENAI_API_BASE_URLS"].split(";"),
        "OPENAI_API_KEYS": os.environ["OPENAI_API_KEYS"].split(";"),
        "OPENAI_API_CONFIGS": json.loads(os.environ["OPENAI_API_CONFIGS"]),
    }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer(json.loads(self.rfile.read(length) or b"{}"))

    def _answer(self, body: dict[str, Any]) -> None:
        path = self.path.partition("?")[0]
        if path == "/health":
            self._send(200, {"status": True})
            return
        with ONE_AT_A_TIME:
            status, said = self._look_up(path, body)
        self._send(status, said)

    def _look_up(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        state = load()
        if path == "/fake/change":
            save(state | body)
            return 200, {}
        known = path == "/api/v1/auths/signin" or self.headers.get("Authorization") == f"Bearer {state['token']}"
        status, said = self._handle(state, path, body) if known else (401, {"detail": "Not authenticated"})
        state["asked"].append(f"{self.command} {path}")
        save(state)
        return status, said

    def _handle(self, state: dict[str, Any], path: str, body: dict[str, Any]) -> tuple[int, Any]:  # noqa: C901
        if path == "/api/v1/auths/signin":
            good = state["passwords"].get(body["email"]) == body["password"]
            return (
                (200, {"token": state["token"]}) if good else (400, {"detail": "The email or password is incorrect."})
            )
        if path == "/api/v1/auths/add":
            user = {"id": str(len(state["users"])), **{key: body[key] for key in ("email", "name", "role")}}
            state["users"].append(user)
            state["passwords"][body["email"]] = body["password"]
            return 200, user
        if path == "/api/v1/users/all":
            return 200, {"users": state["users"]}
        if found := re.fullmatch(r"/api/v1/users/(\w+)/update", path):
            user = next(one for one in state["users"] if one["id"] == found[1])
            state["passwords"][user["email"]] = body["password"]
            return 200, user
        if path == "/api/v1/models/all":
            return 200, state["models"]
        if path == "/api/v1/models/create":
            state["models"].append(body)
            return 200, body
        if path == "/openai/config":
            return 200, state["connections"]
        if path == "/openai/config/update":
            state["connections"] = body
            return 200, body
        if found := re.fullmatch(r"/api/v1/functions/id/(\w+)/valves(/update)?", path):
            if found[2]:
                state["valves"][found[1]] = body
            return 200, state["valves"].get(found[1])
        if path == "/api/v1/functions/create":
            state["functions"][body["id"]] = {**body, "is_active": False}
            return 200, body
        if found := re.fullmatch(r"/api/v1/functions/id/(\w+)(/\w+)?", path):
            function = state["functions"].get(found[1])
            if function is None:
                return 401, {"detail": "We could not find what you're looking for :/"}
            if found[2] == "/toggle":
                function["is_active"] = not function["is_active"]
            elif found[2] == "/update":
                function.update(body)
            return 200, function
        if path.startswith("/api/v1/evaluations/feedbacks/all/"):
            return 200, state["feedbacks"]
        return 404, {"detail": "Not Found"}

    def _send(self, status: int, body: Any) -> None:
        said = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    (DATA / "env.json").write_text(json.dumps(dict(os.environ)), "utf-8")
    print("the key is", os.environ["REVIEWMILL_CHAT_KEY"], flush=True)
    if (DATA / "crash").exists():
        sys.exit(7)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    host, port = (sys.argv[sys.argv.index(f"--{name}") + 1] for name in ("host", "port"))
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
