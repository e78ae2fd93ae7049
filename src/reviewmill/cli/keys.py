"""`reviewmill keys`: who may use the service. A key is printed once, when it is made, and alone on stdout."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from reviewmill.cli.show import console
from reviewmill.errors import SettingsError, StoreError
from reviewmill.settings import load_settings

if TYPE_CHECKING:
    from reviewmill.store import KeyRecord, Store

app = typer.Typer(help="API keys of the service: create, list, revoke.", no_args_is_help=True)

_ACTOR: Final = "command line"
_HOURS: Final = {"h": 1, "d": 24, "w": 24 * 7}
_SERVICE_LIBRARIES: Final = {"sqlalchemy", "alembic", "psycopg"}
_LARGEST: Final = 10**12


class Scope(StrEnum):
    """What a key can allow; the store's `SCOPES`, which cannot be read without the service's libraries."""

    ANALYSE = "analyse"
    JOBS = "jobs"
    CHAT = "chat"
    ADMIN = "admin"


Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="The service's database; by default that of the settings, which is where a URL with a password belongs: "
        "arguments can be seen by all users of a machine.",
        show_default=False,
    ),
]


def _lifetime(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,5})([hdw])", text.strip().lower(), re.ASCII)
    if found is None or not int(found[1]):
        raise typer.BadParameter(f"{text!r} is no lifetime; write 12h, 90d or 52w.")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call the key: who or what will use it.", show_default=False)],
    scope: Annotated[
        list[Scope],
        typer.Option("--scope", help="What it allows; may be given several times.", show_default=False),
    ],
    expires: Annotated[
        timedelta | None,
        typer.Option(parser=_lifetime, metavar="90d", help="How long it is valid; by default for ever."),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, max=_LARGEST, help="Comments a minute; by default from the settings.")
    ] = None,
    quota: Annotated[
        int | None, typer.Option(min=1, max=_LARGEST, help="Comments a day (UTC); by default from the settings.")
    ] = None,
    database: Database = None,
) -> None:
    """Make a key and print it. It cannot be shown again: the database keeps only its digest."""
    if not name.strip():
        raise typer.BadParameter("a key needs a name.", param_hint="NAME")
    until = None if expires is None else datetime.now(UTC) + expires
    with _open(database) as store:
        key, secret = store.keys.create(name.strip(), scope, expires_at=until, rate_per_minute=rate, daily_quota=quota)
        store.audit.write(_ACTOR, "keys.create", key.id, {"name": key.name, "scopes": sorted(key.scopes)})
        where = store.describe()
    typer.echo(secret)
    typer.echo(
        f"{_shown(key)} is in {where}; it allows {', '.join(sorted(key.scopes))}, "
        f"{'for ever' if until is None else f'until {_minute(until)} UTC'}.\n"
        "Keep it now: it is not shown again.",
        err=True,
    )


@app.command("list")
def list_(database: Database = None) -> None:
    """Show all keys, the newest first, without their secrets. Times are in UTC."""
    with _open(database) as store:
        keys = store.keys.list()
        where = store.describe()
    if not keys:
        typer.echo(f"There is no key in {where}. Make one: reviewmill keys create NAME --scope analyse", err=True)
        return
    table = Table(
        "key", "name", "state", "scopes", "created", "expires", "last used", "per minute", "per day", box=None
    )
    for key in keys:
        table.add_row(
            f"rm_{key.prefix}_…",
            Text("".join(c if c.isprintable() else " " for c in key.name)),
            key.state,
            ", ".join(sorted(key.scopes)),
            _minute(key.created_at),
            _minute(key.expires_at),
            _minute(key.last_used_at),
            _count(key.rate_per_minute),
            _count(key.daily_quota),
        )
    console().print(table)


@app.command()
def revoke(
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="The key's first characters, as `reviewmill keys list` shows them.")
    ],
    database: Database = None,
) -> None:
    """Revoke a key for good; who uses it is refused from now on."""
    # Somebody who has the whole key in hand may give it whole; only what names it goes on from here.
    name = prefix.strip().removeprefix("rm_")[:8] if prefix.strip().startswith("rm_") else prefix.strip()
    with _open(database) as store:
        key = store.keys.revoke(name)
        if key is None:
            raise StoreError(
                f"No key in {store.describe()} begins with {name!r}.", hint="`reviewmill keys list` shows them."
            )
        store.audit.write(_ACTOR, "keys.revoke", key.id, {"name": key.name})
    typer.echo(f"{_shown(key)} has been revoked since {_minute(key.revoked_at)} UTC.")


def _open(database: str | None) -> Store:
    try:
        from reviewmill.store import Store, database_url
    except ModuleNotFoundError as error:
        if error.name not in _SERVICE_LIBRARIES:
            raise
        raise SettingsError(
            f"The service's libraries are not installed ({error.name} is missing).",
            hint="Install them: pip install 'reviewmill[service]'",
        ) from error
    service = load_settings().service
    if database is not None:
        service = service.model_copy(update={"database": SecretStr(database)})
    return Store.open(database_url(service))


def _shown(key: KeyRecord) -> str:
    return f"Key rm_{key.prefix}_… ({key.name})"


def _minute(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _count(number: int | None) -> str:
    return "default" if number is None else f"{number:,}"
