"""Wiring Open WebUI through its API: done again, it changes nothing, and each change is told.

What concerns only our models is written at our models, so that a team's other models stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from reviewmill.chat.environment import CAPABILITIES, CHAT_HEADERS, FILE_HEADERS, RAG_TEMPLATE
from reviewmill.chat.service import PREFIX
from reviewmill.chat.webui import WebUI

FUNCTION: Final = "reviewmill_correct_label"
_FUNCTION_NAME: Final = "Correct this label · 更正标签"
_EVERYBODY: Final = [{"principal_type": "user", "principal_id": "*", "permission": "read"}]

_USER_HEADERS: Final = {
    "X-OpenWebUI-User-Id": "{{USER_ID}}",
    "X-OpenWebUI-User-Email": "{{USER_EMAIL}}",
    "X-OpenWebUI-User-Name": "{{USER_NAME}}",
}
"""Sent with our connection only; Open WebUI's switch for them would tell all its connections who asks."""


def wire_function(ui: WebUI, valves: Mapping[str, str] | None = None) -> Iterator[str]:
    """Install the action that corrects a label, or bring it up to date.

    Args:
        ui: an administrator's.
        valves: where the service is and its key, for an Open WebUI that was not started with these in its environment.

    Yields:
        What was changed.

    Raises:
        WebUIError: it is refused.
    """
    content = files("reviewmill.chat").joinpath("functions/correct_label.py").read_text("utf-8")
    form = {
        "id": FUNCTION,
        "name": _FUNCTION_NAME,
        "content": content,
        "meta": {"description": "Tell reviewmill which label a comment should have. 更正一条评论的标签。"},
    }
    found = ui.find(f"/api/v1/functions/id/{FUNCTION}")
    if found is None:
        ui.post("/api/v1/functions/create", form)
        yield f"function {FUNCTION}: installed"
        found = ui.get(f"/api/v1/functions/id/{FUNCTION}")
    elif found.get("content") != content or found.get("name") != _FUNCTION_NAME:
        ui.post(f"/api/v1/functions/id/{FUNCTION}/update", form)
        yield f"function {FUNCTION}: brought up to date"
    if not found.get("is_active"):
        ui.post(f"/api/v1/functions/id/{FUNCTION}/toggle")
        yield f"function {FUNCTION}: switched on"
    if valves is not None:
        before = ui.get(f"/api/v1/functions/id/{FUNCTION}/valves") or {}
        if any(before.get(name) != value for name, value in valves.items()):
            ui.post(f"/api/v1/functions/id/{FUNCTION}/valves/update", dict(valves))
            yield f"function {FUNCTION}: told where the service is"


def wire_models(ui: WebUI, tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Give each task's model its description, its abilities and the action; everybody may use it.

    Args:
        ui: an administrator's.
        tasks: as the service lists them.

    Yields:
        What was changed.

    Raises:
        WebUIError: it is refused.
    """
    known = {model["id"]: model for model in ui.get("/api/v1/models/all")}
    for task in tasks:
        name = f"{PREFIX}{task['name']}"
        labels = ", ".join(label["name"] for label in task["labels"])
        ours = {
            "description": f"{task['description']} ({labels})",
            "capabilities": CAPABILITIES,
            "actionIds": [FUNCTION],
        }
        before = known.get(name)
        if before is None:
            form = {"id": name, "name": name, "base_model_id": None, "meta": ours, "params": {}}
            ui.post("/api/v1/models/create", {**form, "access_grants": _EVERYBODY})
            yield f"model {name}: described, open to all accounts, with the action"
            continue
        meta = before.get("meta") or {}
        actions = [*meta.get("actionIds", []), *({FUNCTION} - set(meta.get("actionIds", [])))]
        # What an administrator wrote stays; what is ours is put right.
        wanted = {**meta, "capabilities": ours["capabilities"], "actionIds": actions}
        if wanted != meta:
            kept = {key: before.get(key) for key in ("id", "name", "base_model_id", "params", "is_active")}
            grants = [
                {key: grant[key] for key in ("principal_type", "principal_id", "permission")}
                for grant in before.get("access_grants") or []
            ]
            ui.post("/api/v1/models/model/update", {**kept, "meta": wanted, "access_grants": grants})
            yield f"model {name}: abilities and action put right"


def wire_connection(ui: WebUI, service: str, key: str) -> Iterator[str]:
    """Add our service to the OpenAI connections, or put its key and headers right; others are left alone.

    Yields:
        What was changed.

    Raises:
        WebUIError: it is refused.
    """
    config = ui.get("/openai/config")
    urls, keys = list(config["OPENAI_API_BASE_URLS"]), list(config["OPENAI_API_KEYS"])
    keys += [""] * (len(urls) - len(keys))
    configs = dict(config["OPENAI_API_CONFIGS"])
    ours = f"{service}/v1"
    if ours in urls:
        at, what = urls.index(ours), "put right"
    else:
        at, what = len(urls), "added"
        urls.append(ours)
        keys.append("")
    own = configs.get(str(at)) or {}
    wanted = {**own, "enable": True, "headers": {**(own.get("headers") or {}), **CHAT_HEADERS, **_USER_HEADERS}}
    if what == "added" or keys[at] != key or own != wanted or not config["ENABLE_OPENAI_API"]:
        keys[at] = key
        configs[str(at)] = wanted
        form = {"OPENAI_API_BASE_URLS": urls, "OPENAI_API_KEYS": keys, "OPENAI_API_CONFIGS": configs}
        ui.post("/openai/config/update", {"ENABLE_OPENAI_API": True, **form})
        yield f"connection {ours}: {what}"


def wire_files(ui: WebUI, service: str, key: str) -> Iterator[str]:
    """Have attached files read by our service. This holds for all models of that Open WebUI.

    Yields:
        What was changed, with what it was before.

    Raises:
        WebUIError: it is refused.
    """
    config = ui.get("/api/v1/retrieval/config")
    wanted = {
        "CONTENT_EXTRACTION_ENGINE": "external",
        "EXTERNAL_DOCUMENT_LOADER_URL": f"{service}/v1/chat/files",
        "EXTERNAL_DOCUMENT_LOADER_API_KEY": key,
        "EXTERNAL_DOCUMENT_LOADER_HEADERS": {**FILE_HEADERS, **_USER_HEADERS},
        "BYPASS_EMBEDDING_AND_RETRIEVAL": True,
        "RAG_TEMPLATE": RAG_TEMPLATE,
    }
    different = {name: value for name, value in wanted.items() if config.get(name) != value}
    if different:
        ui.post("/api/v1/retrieval/config/update", different)
    for name in different:
        before = "…" if name.endswith("KEY") else repr(config.get(name))[:80]
        yield f"setting {name}: was {before}"
