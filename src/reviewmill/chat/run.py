"""A chat from its start to its end: both programs, the wiring, the watch over them, and thumbs brought home.

The chat is this process. Each program has a supervisor of its own (`reviewmill.supervise`), which starts it again when
it ends and ends it when this process is gone, however that happened.
"""

from __future__ import annotations

import json
import os
import secrets as random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from reviewmill.chat import install
from reviewmill.chat.environment import Wiring
from reviewmill.chat.place import MACHINE_EMAIL, Place, write_private
from reviewmill.chat.programs import (
    SERVICE,
    TITLES,
    WEBUI,
    address,
    check_port,
    origins,
    service_key,
    service_spec,
    webui_spec,
)
from reviewmill.chat.service import PREFIX, ServiceFace
from reviewmill.chat.signals import signals
from reviewmill.chat.thumbs import Thumbs
from reviewmill.chat.webui import WebUI
from reviewmill.chat.wire import wire_function, wire_models
from reviewmill.errors import ProcessError, SettingsError, WebUIError
from reviewmill.supervise import Status, log_tail, start, status, stop
from reviewmill.supervise.control import wait_until
from reviewmill.supervise.identity import alive, identify, send, wait_gone
from reviewmill.supervise.spec import Identity
from reviewmill.tasks import load_task

if TYPE_CHECKING:
    from reviewmill.settings import Settings

Say = Callable[[str], None]

_TURN_S: Final = 0.5
_READY_S: Final = 320.0
_STOP_S: Final = 45.0
_ENDED: Final = frozenset({"failed", "stopped"})
_PASSWORD_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Options:
    """What one start of the chat is told.

    Attributes:
        flavour: which form of Open WebUI.
        service: a service that runs already; None: ours is started.
        service_key: its key.
        admin_password: for the first administrator; None: one is made up and shown once.
    """

    flavour: install.Flavour = "slim"
    service: str | None = None
    service_key: str | None = None
    admin_password: str | None = None


class Stop(Exception):  # noqa: N818 - it is no error
    """The chat is to end."""


@dataclass(frozen=True, slots=True)
class Running:
    """A chat that runs, as another process sees it: what browsers call it, and where this machine reaches it."""

    process: Identity
    url: str
    local: str
    service: str
    since: float


def running(place: Place) -> Running | None:
    """The chat that runs from a folder, if one does."""
    try:
        raw = json.loads((place.root / "run" / "chat.json").read_text("utf-8"))
        found = Running(**{**raw, "process": Identity(**raw["process"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if alive(found.process) else None


def end(place: Place) -> bool:
    """End the chat that runs from a folder, and whatever of it is left; return whether something ran.

    Raises:
        ProcessError: something does not end.
    """
    found = running(place)
    if found is not None and send(found.process, signal.SIGTERM):
        for late in wait_gone([found.process], 2 * _STOP_S):
            send(late, signal.SIGKILL)
    left = [name for name in TITLES if (now := status(place.program(name))) is not None and now.running]
    for name in left:
        stop(place.program(name), seconds=_STOP_S)
    return found is not None or bool(left)


class Chat:
    """One chat.

    Args:
        settings: all settings.
        options: see there.
        say: told, in a sentence, what happens.
        place: its folder, whose lock the caller holds.
    """

    def __init__(self, settings: Settings, options: Options, say: Say, place: Place) -> None:
        self._settings = settings
        self._options = options
        self._say = say
        self._place = place
        self._stop = threading.Event()
        self._seen: dict[str, tuple[str, int]] = {}
        self._wiring: Wiring
        self._names = (WEBUI,) if options.service else (SERVICE, WEBUI)

    def run(self, plan: install.Plan, on_ready: Callable[[str], None]) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP.

        Args:
            plan: what is installed.
            on_ready: told the URL, when people can sign in.

        Raises:
            ReviewmillError: it cannot start, or one of the programs was given up.
            KeyboardInterrupt: SIGINT ended it.
        """
        self._check()
        with signals(self._stop) as came:
            try:
                self._start(plan)
                ui = self._wire()
                on_ready(self._wiring.url)
                self._watch(ui)
            except Stop:
                pass
            finally:
                self._end()
        if signal.SIGINT in came:
            raise KeyboardInterrupt

    def _check(self) -> None:
        chat, service = self._settings.chat, self._settings.service
        for name in TITLES:
            before = status(self._place.program(name))
            if before is not None and before.running:  # of a chat that was killed just now
                stop(self._place.program(name), seconds=_STOP_S)
        check_port(chat.host, chat.port, "Open WebUI", "--port")
        if self._options.service is None:
            if service.port == chat.port:
                raise SettingsError("The chat and the service have the same port.", hint="Choose another with --port.")
            check_port(service.host, service.port, "The service", "--service-port")

    def _start(self, plan: install.Plan) -> None:
        settings, place = self._settings, self._place
        url, allowed = origins(settings)
        if self._options.service is None:
            key = service_key(settings, place)
            service = address(settings.service.host, settings.service.port)
            models = [f"{PREFIX}{load_task(settings.task).name}"]
            start(place.program(SERVICE), service_spec(settings, key))
        else:
            with ServiceFace(self._options.service, self._options.service_key) as face:
                models = [f"{PREFIX}{task['name']}" for task in face.tasks()]
                service, key = face.url, self._options.service_key or "none"
        self._wiring = Wiring(service, key, models, url, allowed)
        more = settings.chat.environment
        start(place.program(WEBUI), webui_spec(settings, plan, place, place.secrets(), self._wiring, more=more))
        me = identify(os.getpid())
        local = address(settings.chat.host, settings.chat.port)
        about = {"process": asdict(me) if me else {}, "url": url, "local": local, "service": service}
        write_private(place.root / "run" / "chat.json", json.dumps({**about, "since": time.time()}))
        for name in self._names:
            self._wait(name)

    def _wait(self, name: str) -> None:
        """Wait until a program is well."""

        def look(_: Status) -> None:
            if self._stop.is_set():
                raise Stop
            self._notice()

        try:
            now = wait_until(self._place.program(name), frozenset({"ready"}), seconds=_READY_S, on_look=look)
        except ProcessError:
            self._notice()  # tells it better, if it was given up
            raise
        self._say(f"{TITLES[name]} is ready ({time.time() - (now.started or time.time()):.0f} s).")

    def _wire(self) -> WebUI:
        """Install what is ours, make the first administrator, and return an administrator's view."""
        ui = self._signed_in()
        with ServiceFace(self._wiring.service, self._wiring.key) as face:
            tasks = face.tasks()
        for changed in (*wire_function(ui), *wire_models(ui, tasks)):
            self._say(changed)
        self._first_administrator(ui)
        return ui

    def _signed_in(self) -> WebUI:
        ui = WebUI(address(self._settings.chat.host, self._settings.chat.port))
        try:
            ui.sign_in(MACHINE_EMAIL, self._place.secrets().machine_password)
        except WebUIError as error:
            ui.close()
            if error.status is None:
                raise
            raise WebUIError(
                f"The account {MACHINE_EMAIL}, through which reviewmill wires Open WebUI, cannot sign in any more.",
                hint="Was its password changed? Put a backup back, or begin anew: reviewmill chat reset",
            ) from error
        return ui

    def _first_administrator(self, ui: WebUI) -> None:
        """Make it once; where nobody saw the password because we were ended then, make a new one."""
        if self._place.secrets().admin_shown:
            return
        email = self._settings.chat.admin_email.lower()
        password = self._options.admin_password or random.token_urlsafe(_PASSWORD_BYTES)
        set_account(ui, email, password, name="Administrator", role="admin")
        if self._options.admin_password:
            self._say(f"The administrator is {email}, with the password from the environment.")
        else:
            self._say(f"The administrator is {email}, password {password}\n  It is not shown again; change it there.")
        self._place.update(admin_shown=True)

    def _watch(self, ui: WebUI) -> None:
        """Tell what happens to the programs, and bring thumbs, until the end."""
        service = ServiceFace(self._wiring.service, self._wiring.key)
        notes, every_s = self._place.root / "feedback.json", self._settings.chat.thumbs_s
        with Thumbs(notes, ui, service, self._signed_in, self._say, every_s=every_s) as thumbs:
            while not self._stop.wait(_TURN_S):
                self._notice()
                thumbs.turn()

    def _notice(self) -> None:
        """Tell what changed since the last look.

        Raises:
            ProcessError: a program was given up.
        """
        for name in self._names:
            now = status(self._place.program(name))
            if now is None:
                continue
            before, self._seen[name] = self._seen.get(name), (now.state, now.restarts)
            if now.state in _ENDED:
                tail = "\n".join(f"    {line}" for line in log_tail(self._place.program(name), 12))
                what = "ended again and again" if now.state == "failed" else "was stopped"
                raise ProcessError(f"{TITLES[name]} {what} ({now.last_end}).", hint=f"The end of its log:\n{tail}")
            if before is not None and before != self._seen[name]:
                self._tell(name, now, before)

    def _tell(self, name: str, now: Status, before: tuple[str, int]) -> None:
        title = TITLES[name]
        if now.state == "waiting" or (now.restarts != before[1] and before[0] != "waiting"):
            self._say(f"{title} ended: {now.last_end}. It is started again.")
        if now.state == "unhealthy":
            self._say(f"{title} does not answer at the moment.")
        elif now.state == "ready" and (before[0] == "unhealthy" or now.restarts):
            self._say(f"{title} is back.")

    def _end(self) -> None:
        """End both, people's side first, so that nobody meets half a chat."""
        for name in reversed(self._names):
            if status(self._place.program(name)) is not None:
                stop(self._place.program(name), seconds=_STOP_S)
        (self._place.root / "run" / "chat.json").unlink(missing_ok=True)


def set_account(ui: WebUI, email: str, password: str, *, name: str, role: str) -> bool:
    """Make an account, or give one that is there a new password; return whether it is a new one.

    Raises:
        WebUIError: it is refused.
    """
    users = {user["email"]: user for user in ui.get("/api/v1/users/all")["users"]}
    known = users.get(email)
    if known is None:
        ui.post("/api/v1/auths/add", {"name": name, "email": email, "password": password, "role": role})
        return True
    kept = {key: known.get(key) for key in ("role", "name", "email")}
    ui.post(f"/api/v1/users/{known['id']}/update", {**kept, "password": password})
    return False
