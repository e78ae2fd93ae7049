"""`reviewmill chat`: Open WebUI in front of the service, for people."""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.table import Table

from reviewmill.chat import install
from reviewmill.chat.place import MACHINE_EMAIL, Place
from reviewmill.cli.serve import check_extra
from reviewmill.cli.show import console
from reviewmill.errors import SettingsError, WebUIError
from reviewmill.settings import Settings, load_settings

if TYPE_CHECKING:
    from reviewmill.chat.webui import WebUI

app = typer.Typer(
    help="The chat: Open WebUI, wired to the service. Without a command: start it.", no_args_is_help=False
)
users = typer.Typer(help="Accounts of the chat, while it runs.", no_args_is_help=True)
app.add_typer(users, name="users")

KEY_VARIABLE: Final = "REVIEWMILL_CHAT_SERVICE_KEY"
TOKEN_VARIABLE: Final = "REVIEWMILL_CHAT_WEBUI_TOKEN"  # noqa: S105 - a variable's name
PASSWORD_VARIABLE: Final = "REVIEWMILL_CHAT_ADMIN_PASSWORD"  # noqa: S105
_MB: Final = 1_000_000
_PLAIN_EVERY_S: Final = 10.0
_PASSWORD_BYTES: Final = 12

KeyFile = Annotated[
    Path | None,
    typer.Option(help=f"A file that holds the service's API key; or set {KEY_VARIABLE}.", show_default=False),
]


@app.callback(invoke_without_command=True)
def chat(
    context: typer.Context,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the chat; by default 3000.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 is this machine only.")] = None,
    url: Annotated[str | None, typer.Option(help="What browsers call it, if a proxy stands in front.")] = None,
    service: Annotated[str | None, typer.Option(metavar="URL", help="A service that runs already.")] = None,
    service_key_file: KeyFile = None,
    service_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the service that is started.")
    ] = None,
    webui: Annotated[str | None, typer.Option(metavar="URL", help="Wire an Open WebUI that runs already.")] = None,
    files: Annotated[
        bool, typer.Option("--files", help="With --webui: have files read by the service, for all its models.")
    ] = False,
    thumbs: Annotated[
        bool, typer.Option("--thumbs", help="With --webui: stay, and bring thumbs to the service as corrections.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Install the complete Open WebUI (2.9 GB).")] = False,
    python: Annotated[str | None, typer.Option(help="A Python 3.11 or 3.12 for Open WebUI.")] = None,
    install_only: Annotated[bool, typer.Option("--install-only", help="Install, and start nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Install without asking.")] = False,
) -> None:
    """Start the chat; the first time it is installed. Ctrl-C ends it. Its pages are in the browser's language."""
    if context.invoked_subcommand is not None:
        return
    given = {"port": port, "host": host, "url": url, "python": python}
    settings = load_settings(
        chat={name: value for name, value in given.items() if value is not None},
        service={"port": service_port} if service_port is not None else None,
    )
    if webui is not None:
        to = _service_of_a_team(service, service_key_file)
        _wire(settings, webui, *to, files=files)
        if thumbs:
            _bring_thumbs(settings, webui, *to)
        return
    if files or thumbs:
        raise SettingsError(
            f"{'--files' if files else '--thumbs'} belongs to --webui URL, an Open WebUI that runs already.",
            hint="Without --webui, the chat does this by itself.",
        )
    _up(settings, "full" if full else "slim", service, service_key_file, install_only=install_only, yes=yes)


def _up(
    settings: Settings,
    flavour: install.Flavour,
    service: str | None,
    key: Path | None,
    *,
    install_only: bool,
    yes: bool,
) -> None:
    check_extra()
    from reviewmill.chat.run import Chat, Options

    place = Place(settings.chat.data_dir)
    place.make()
    with place.lock():
        plan = install.plan(place, flavour, python=settings.chat.python)
        _install(plan, yes=yes)
        if install_only:
            return
        began = time.monotonic()

        def ready(url: str) -> None:
            _say(f"The chat is ready after {time.monotonic() - began:.0f} s:")
            typer.echo(url)
            _say("Ctrl-C ends it.")

        options = Options(flavour, service, _service_key(key) if service else None, os.environ.get(PASSWORD_VARIABLE))
        Chat(settings, options, _say, place).run(plan, ready)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _install(plan: install.Plan, *, yes: bool) -> None:
    """Say what will be installed and how big it is, ask where somebody can answer, and install it."""
    if plan.installed:
        return
    _say(f"To be installed, in an environment of its own:\n  {plan.words}")
    _say("Open WebUI is not part of reviewmill and has a licence of its own: https://docs.openwebui.com/license")
    if sys.stdin.isatty() and not yes and not typer.confirm("Install it?", default=True, err=True):
        raise typer.Exit(1)
    began = time.monotonic()
    shown = [0.0]
    screen = console(stderr=True)
    with screen.status("installing") as line:

        def progress(phase: str, done: int, total: int | None) -> None:
            about = f"{done / _MB:,.0f} of {total / _MB:,.0f} MB" if total else "about a minute"
            text = f"{'fetching' if phase == 'fetch' else 'unpacking'} Open WebUI: {about}"
            line.update(text)
            if not screen.is_terminal and (time.monotonic() - shown[0] > _PLAIN_EVERY_S or phase != "fetch"):
                shown[0] = time.monotonic()
                _say(text)

        install.install(plan, progress)
    _say(f"Open WebUI {install.VERSION} is installed ({time.monotonic() - began:.0f} s).")


def _service_key(path: Path | None) -> str | None:
    """The service's key, from a file or the environment: arguments can be seen by all users of a machine."""
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return path.read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The key file {path} cannot be read: {error}.", hint=f"Or set {KEY_VARIABLE}.") from error


def _service_of_a_team(service: str | None, key: Path | None) -> tuple[str, str]:
    """The service that a team's Open WebUI is to be wired to, and its key."""
    if service is None:
        raise SettingsError(
            "Which service is it to be wired to?",
            hint="Give --service URL, as that Open WebUI reaches it, and its key: "
            "reviewmill keys create chat --scope analyse --scope jobs --scope chat",
        )
    secret = _service_key(key)
    if not secret:
        raise SettingsError("The service's API key is missing.", hint=f"Set {KEY_VARIABLE} or --service-key-file.")
    return service, secret


def _wire(settings: Settings, webui: str, service: str, secret: str, *, files: bool) -> None:
    """Wire an Open WebUI that a team runs, and print what was changed."""
    from reviewmill.chat.service import ServiceFace
    from reviewmill.chat.wire import wire_connection, wire_files, wire_function, wire_models

    with ServiceFace(service, secret) as face, _administrators(settings, webui) as ui:
        tasks = face.tasks()
        steps = [wire_connection(ui, face.url, secret)]
        steps.append(wire_function(ui, {"service": face.url, "key": secret}))
        steps.append(wire_models(ui, tasks))
        if files:
            steps.append(wire_files(ui, face.url, secret))
        count = 0
        for step in steps:
            for changed in step:
                count += 1
                typer.echo(changed)
    _say(f"{count} change(s) at {ui.url}." if count else f"Nothing to change at {ui.url}: it is wired.")
    if not files:
        _say("Files are read as before; with --files the service reads them (CSV, XLSX, …), for all models there.")


def _bring_thumbs(settings: Settings, webui: str, service: str, secret: str) -> None:
    """Bring thumbs from an Open WebUI that a team runs, until a signal ends it."""
    from reviewmill.chat.service import ServiceFace
    from reviewmill.chat.thumbs import Thumbs, bring_until_ended

    place = Place(settings.chat.data_dir)
    place.make()

    def sign_in() -> WebUI:
        return _administrators(settings, webui)

    ui, face = sign_in(), ServiceFace(service, secret)
    parts = urlsplit(ui.url)
    notes = place.root / f"feedback-{parts.hostname}-{parts.port or parts.scheme}.json"
    _say(f"Thumbs at {ui.url} are brought to {face.url}. Ctrl-C ends it.")
    with Thumbs(notes, ui, face, sign_in, _say, every_s=settings.chat.thumbs_s) as thumbs:
        bring_until_ended(thumbs)


def _administrators(settings: Settings, url: str) -> WebUI:
    """A team's Open WebUI as its administrator sees it: by a token, or by a password where nobody has one yet."""
    from reviewmill.chat.webui import WebUI

    token, password = os.environ.get(TOKEN_VARIABLE), os.environ.get(PASSWORD_VARIABLE)
    if not token and password:
        ui = WebUI(url)
        try:
            ui.sign_in(settings.chat.admin_email, password)
        except WebUIError:
            ui.close()
            raise
        return ui
    if not token:
        if not sys.stdin.isatty():
            raise SettingsError(
                f"An administrator's token of {url} is needed.",
                hint=f"Set {TOKEN_VARIABLE}; in Open WebUI: Settings, Account, API keys (or the session's token). "
                f"Or {PASSWORD_VARIABLE}, that of {settings.chat.admin_email}.",
            )
        token = typer.prompt("An administrator's API key or token of that Open WebUI", hide_input=True, err=True)
    return WebUI(url, token)


@app.command()
def stop() -> None:
    """End the chat that runs, from another terminal."""
    from reviewmill.chat.run import end

    place = _place()
    _say("The chat has ended." if end(place) else f"No chat runs from {place.root}.")


@app.command()
def status() -> None:
    """Show what runs, and where. Exit code 1 if nothing does."""
    from reviewmill.chat.programs import TITLES
    from reviewmill.chat.run import running
    from reviewmill.supervise import status as status_of

    place = _place()
    found = running(place)
    if found is None:
        _say(f"No chat runs from {place.root}.")
        raise typer.Exit(1)
    typer.echo(found.url)
    table = Table("program", "state", "since", "restarts", "process", "log", box=None)
    for name, title in TITLES.items():
        now = status_of(place.program(name))
        if now is None or not now.running:
            table.add_row(title, f"elsewhere: {found.service}", "", "", "", "")
            continue
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(now.since))
        process = str(now.program.pid) if now.program else "none"
        table.add_row(title, now.state, since, str(now.restarts), process, str(place.program(name) / "log"))
    console().print(table)


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    installs: Annotated[bool, typer.Option("--installs", help="Remove Open WebUI itself, too.")] = False,
) -> None:
    """Delete all accounts, chats and secrets of the chat. What the service keeps (corrections, jobs) stays."""
    from reviewmill.chat.keep import wipe

    place = _place()
    what = "all accounts, chats and secrets" + (" and Open WebUI itself" if installs else "")
    if not yes:
        if not sys.stdin.isatty():
            raise SettingsError(f"This deletes {what}.", hint="Say so: --yes")
        typer.confirm(f"Delete {what} in {place.root}?", abort=True, err=True)
    wipe(place, installs=installs)
    _say(f"Deleted: {what}.")


@app.command()
def backup(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The archive to write.")] = None,
) -> None:
    """Write accounts, chats, uploads and secrets into one archive; the chat may run meanwhile."""
    from reviewmill.chat.keep import save

    target = output or Path(f"reviewmill-chat-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    size = save(_place(), target)
    typer.echo(str(target))
    _say(f"{size / _MB:,.1f} MB. It holds secrets: whoever has it can sign in as anybody.")


@app.command()
def restore(
    archive: Annotated[Path, typer.Argument(help="What `reviewmill chat backup` wrote.", show_default=False)],
) -> None:
    """Put a backup back, where there are no accounts and chats (see `reset`)."""
    from reviewmill.chat.keep import put_back

    place = _place()
    put_back(place, archive)
    _say(f"{archive} is back in {place.root}.")


@users.command("add")
def add_user(
    email: Annotated[str, typer.Argument(help="How the person signs in.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="What others see; by default what stands before the @.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="An administrator.")] = False,
) -> None:
    """Make an account, and print its password, once. For an account that is there: a new password."""
    from reviewmill.chat.run import running, set_account
    from reviewmill.chat.webui import WebUI

    settings = load_settings()
    place = Place(settings.chat.data_dir)
    found = running(place)
    if found is None:
        raise SettingsError("The chat does not run.", hint="Start it: reviewmill chat")
    if email.lower() == MACHINE_EMAIL:
        raise SettingsError(f"{MACHINE_EMAIL} is reviewmill's own account.", hint="Choose another address.")
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    with WebUI(found.local) as ui:
        ui.sign_in(MACHINE_EMAIL, place.secrets().machine_password)
        made = set_account(
            ui, email.lower(), password, name=name or email.split("@")[0], role="admin" if admin else "user"
        )
    typer.echo(password)
    _say(f"{'Made' if made else 'A new password for'} {email}; it is not shown again. They sign in at {found.url}")


@users.command("list")
def list_users() -> None:
    """Show all accounts."""
    from reviewmill.chat.run import running
    from reviewmill.chat.webui import WebUI

    place = _place()
    found = running(place)
    if found is None:
        raise SettingsError("The chat does not run.", hint="Start it: reviewmill chat")
    with WebUI(found.local) as ui:
        ui.sign_in(MACHINE_EMAIL, place.secrets().machine_password)
        people = ui.get("/api/v1/users/all").get("users")
    if people is None:
        raise WebUIError("Open WebUI gave no list of accounts.")
    table = Table("e-mail", "name", "role", box=None)
    for person in people:
        table.add_row(person["email"], person["name"], person["role"])
    console().print(table)


def _place() -> Place:
    return Place(load_settings().chat.data_dir)
