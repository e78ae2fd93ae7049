"""The two programs that a chat is made of: our service and Open WebUI, as the supervisor starts them."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reviewmill.chat.environment import Wiring, environment
from reviewmill.chat.install import Plan
from reviewmill.chat.place import Place, Secrets
from reviewmill.errors import SettingsError
from reviewmill.supervise import Spec
from reviewmill.supervise.identity import identify

if TYPE_CHECKING:
    from reviewmill.settings import Settings
    from reviewmill.store import Store

SERVICE: Final = "service"
WEBUI: Final = "open-webui"
TITLES: Final = {SERVICE: "The service", WEBUI: "Open WebUI"}

_KEY_NAME: Final = "chat"
_SCOPES: Final = ("analyse", "jobs", "chat")
# What a program needs of the system. The rest of the user's environment (DATABASE_URL, OPENAI_API_KEY, ...) would
# change Open WebUI behind our back, and a proxy would get between it and the service.
_KEPT: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_START_S: Final = 300.0


def check_port(host: str, port: int, what: str, option: str) -> None:
    """Refuse a port that somebody listens on, before anything is started.

    Raises:
        SettingsError: nobody can listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        raise SettingsError(
            f"{what} cannot listen on {host}, port {port}: {error.strerror or error}.",
            hint=f"Another program may use that port; choose another with {option}.",
        ) from error


def address(host: str, port: int) -> str:
    """The URL under which this machine reaches a program that listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"


def service_key(settings: Settings, place: Place) -> str:
    """The key that the chat uses at a service that we start ourselves; a new one where the old one is not good.

    Raises:
        StoreError: the service's database cannot be used.
    """
    from reviewmill.store import SCOPES, Store, database_url

    wanted = frozenset(_SCOPES) & SCOPES
    with contextlib.closing(Store.open(database_url(settings.service))) as store:
        known = place.secrets().service_key
        record = store.keys.find(known) if known else None
        if known and record is not None and record.state == "active" and wanted <= record.scopes:
            return known
        return _new_key(store, place, wanted)


def _new_key(store: Store, place: Place, scopes: frozenset[str]) -> str:
    record, secret = store.keys.create(_KEY_NAME, sorted(scopes))
    store.audit.write("reviewmill chat", "keys.create", record.id, {"name": record.name, "scopes": sorted(scopes)})
    place.update(service_key=secret)
    return secret


def service_spec(settings: Settings, key: str) -> Spec:
    """Our service, with all settings as they are for whoever starts the chat."""
    service = settings.service
    url = address(service.host, service.port)
    return Spec(
        "the service",
        (sys.executable, "-m", "reviewmill", "serve", "--host", service.host, "--port", str(service.port)),
        env={"REVIEWMILL_SERVICE__PUBLIC_URL": service.public_url or url},
        secrets=(key,),
        cwd=str(Path.cwd()),
        health_url=f"{url}/healthz",
        start_seconds=_START_S,
        unhealthy_limit=12,
        about={"url": url},
        owner=identify(os.getpid()),
    )


def webui_spec(
    settings: Settings, plan: Plan, place: Place, secrets: Secrets, wiring: Wiring, *, more: Mapping[str, str]
) -> Spec:
    """Open WebUI, listening where the settings say.

    Args:
        settings: all settings.
        plan: what is installed.
        place: the chat's folder.
        secrets: see there.
        wiring: see there.
        more: variables that the user wants besides; they win.
    """
    chat = settings.chat
    system = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # -I: nothing from our own environment may be imported; -u: what it says stands in the log at once.
    command = (str(plan.interpreter), "-I", "-u", "-m", "uvicorn", "open_webui.main:app")
    return Spec(
        "Open WebUI",
        (*command, "--host", chat.host, "--port", str(chat.port), "--no-access-log", "--log-level", "warning"),
        env=system | environment(wiring, secrets, place.data, slim=plan.flavour == "slim") | dict(more),
        inherits=False,
        secrets=(secrets.webui_key, secrets.machine_password, wiring.key),
        cwd=str(place.root),
        health_url=f"{address(chat.host, chat.port)}/health",
        start_seconds=_START_S,
        health_timeout=10.0,
        unhealthy_limit=12,
        about={"url": wiring.url},
        owner=identify(os.getpid()),
    )


def origins(settings: Settings) -> tuple[str, list[str]]:
    """What people's browsers call the chat, and the origins from which they may."""
    chat = settings.chat
    own = address(chat.host, chat.port)
    url = (chat.url or own).rstrip("/")
    known = [url, own, *([f"http://localhost:{chat.port}"] if own.startswith("http://127.") else [])]
    return url, list(dict.fromkeys(known))
