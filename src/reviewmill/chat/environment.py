"""The environment that Open WebUI is started with: offline, lean, wired to our service. Pure.

The environment wins at every start (`ENABLE_PERSISTENT_CONFIG=false`): a setting that is changed in its pages counts
until it is restarted. Accounts, chats and functions stay.

Source: Open WebUI 0.12.4, `backend/open_webui/env.py` and `config.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reviewmill.chat.place import MACHINE_EMAIL, Secrets

CAPABILITIES: Final[dict[str, bool]] = {
    "file_upload": True,
    "file_context": True,
    "citations": False,
    "status_updates": True,
    "usage": False,
    "vision": False,
    "web_search": False,
    "image_generation": False,
    "code_interpreter": False,
    "terminal": False,
    "builtin_tools": False,
    "memory": False,
}
"""What models can do. Built-in tools would send 25 KB along with each message, and our models call none."""

SUGGESTIONS: Final[list[dict[str, Any]]] = [
    {"title": ["判断一条评论", "有把握的标签和关键词"], "content": "这个手机拍照太差了，根本不像宣传那样清晰。"},
    {
        "title": ["判断多条评论", "每行一条，答一张表"],
        "content": "物流很快，包装完好，五星好评！\n屏幕有划痕，客服一直不回复。\n还行吧，对得起这个价格。",
    },
    {"title": ["Judge a comment", "label, confidence, keywords"], "content": "Battery died after two days. Avoid."},
    {
        "title": ["Judge several comments", "one a line, answered as a table"],
        "content": "Great sound for the price.\nThe left earbud stopped working.\nIt is okay, nothing special.",
    },
]
"""On the first page. A file of comments is attached with the plus sign below."""

RAG_TEMPLATE: Final = "{{CONTEXT}}"
"""Attached files reach the model as what our document loader said of them, without instructions around it."""

FILE_HEADERS: Final = {"X-File-Id": "{{FILE_ID}}", "X-File-Name": "{{FILE_NAME}}"}
CHAT_HEADERS: Final = {"X-Chat": "{{CHAT_ID}}", "X-Msg": "{{MESSAGE_ID}}"}
FILE_TYPES: Final = ["csv", "tsv", "txt", "jsonl", "ndjson", "json", "xlsx", "parquet"]

BACKGROUND: Final = ("TITLE", "TAGS", "FOLLOW_UP", "SEARCH_QUERY", "RETRIEVAL_QUERY", "AUTOCOMPLETE")
"""What Open WebUI would ask the model for besides, each time."""

_OFF: Final = (
    "OLLAMA_API",
    "SIGNUP",
    "COMMUNITY_SHARING",
    "DIRECT_CONNECTIONS",
    "EVALUATION_ARENA_MODELS",
    "WEB_SEARCH",
    "IMAGE_GENERATION",
    "CODE_EXECUTION",
    "CODE_INTERPRETER",
    "MEMORIES",
    "CHANNELS",
    "CALENDAR",
    "AUTOMATIONS",
    "SUBAGENTS",
    "NOTES",
    "VERSION_UPDATE_CHECK",
    "PIP_INSTALL_FRONTMATTER_REQUIREMENTS",
    "RAG_HYBRID_SEARCH",
    "RAG_LOCAL_WEB_FETCH",
    "CONTEXT_COMPACTION",
    "PERSISTENT_CONFIG",
    "OAUTH_PERSISTENT_CONFIG",
    "OTEL",
)


@dataclass(frozen=True, slots=True)
class Wiring:
    """How the two talk to each other and to people.

    Attributes:
        service: our service's address, without `/v1`.
        key: its API key.
        models: names of the models that the tasks are; the first is the default one.
        url: what people's browsers call the chat.
        origins: web origins from which a browser may call it.
    """

    service: str
    key: str
    models: Sequence[str]
    url: str
    origins: Sequence[str]


def environment(wiring: Wiring, secrets: Secrets, data: Path, *, slim: bool) -> dict[str, str]:
    """All variables that Open WebUI is started with, beside those of the system.

    Args:
        wiring: see there.
        secrets: see there.
        data: where it keeps its data.
        slim: whether its slim form is installed.
    """
    return {
        **_offline(slim),
        **{f"ENABLE_{name}": "false" for name in _OFF},
        **{f"ENABLE_{name}_GENERATION": "false" for name in BACKGROUND},
        **_accounts(wiring, secrets, data),
        **_model(wiring),
        **_files(wiring),
        # The function "Correct this label" reads these.
        "REVIEWMILL_CHAT_SERVICE": wiring.service,
        "REVIEWMILL_CHAT_KEY": wiring.key,
    }


def _offline(slim: bool) -> dict[str, str]:
    return {
        "ENV": "prod",
        # It was installed as a package (its own command says so in this way), which is where its pages are.
        "FROM_INIT_PY": "true",
        "USE_SLIM_DOCKER": "true" if slim else "false",
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "true",
        "SCARF_NO_ANALYTICS": "true",
        "ANONYMIZED_TELEMETRY": "false",
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
        "RAG_EMBEDDING_ENGINE": "openai",
        "AUDIO_STT_ENGINE": "web",
        "WEB_LOADER_ENGINE": "",
        "GLOBAL_LOG_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
        # Its own clients must not meet a proxy on their way to the service.
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
    }


def _accounts(wiring: Wiring, secrets: Secrets, data: Path) -> dict[str, str]:
    https = wiring.url.startswith("https://")
    return {
        "DATA_DIR": str(data),
        "WEBUI_SECRET_KEY": secrets.webui_key,
        "WEBUI_ADMIN_EMAIL": MACHINE_EMAIL,
        "WEBUI_ADMIN_PASSWORD": secrets.machine_password,
        "WEBUI_ADMIN_NAME": "reviewmill (automatic)",
        "WEBUI_AUTH": "true",
        "DEFAULT_USER_ROLE": "user",
        "WEBUI_URL": wiring.url,
        "CORS_ALLOW_ORIGIN": ";".join(wiring.origins),
        "WEBUI_SESSION_COOKIE_SECURE": "true" if https else "false",
        "WEBUI_AUTH_COOKIE_SECURE": "true" if https else "false",
        "DEFAULT_INTERFACE_SETTINGS": json.dumps({"showChangelog": False, "showUpdateToast": False}),
    }


def _model(wiring: Wiring) -> dict[str, str]:
    return {
        "OPENAI_API_BASE_URLS": f"{wiring.service}/v1",
        "OPENAI_API_KEYS": wiring.key,
        "OPENAI_API_CONFIGS": json.dumps({"0": {"enable": True, "headers": CHAT_HEADERS}}),
        "ENABLE_FORWARD_USER_INFO_HEADERS": "true",
        "BYPASS_MODEL_ACCESS_CONTROL": "true",
        "DEFAULT_MODELS": wiring.models[0] if wiring.models else "",
        "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": CAPABILITIES}),
        "DEFAULT_PROMPT_SUGGESTIONS": json.dumps(SUGGESTIONS, ensure_ascii=False),
        "ENABLE_MESSAGE_RATING": "true",
    }


def _files(wiring: Wiring) -> dict[str, str]:
    return {
        "CONTENT_EXTRACTION_ENGINE": "external",
        "EXTERNAL_DOCUMENT_LOADER_URL": f"{wiring.service}/v1/chat/files",
        "EXTERNAL_DOCUMENT_LOADER_API_KEY": wiring.key,
        "EXTERNAL_DOCUMENT_LOADER_HEADERS": json.dumps(FILE_HEADERS),
        "RAG_TEMPLATE": RAG_TEMPLATE,
        "RAG_ALLOWED_FILE_EXTENSIONS": ",".join(FILE_TYPES),
    }
