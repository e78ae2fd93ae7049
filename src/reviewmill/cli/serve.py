"""`reviewmill serve`: the same analysis behind HTTP."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from reviewmill.cli.endpoints import endpoint_arguments
from reviewmill.errors import SettingsError
from reviewmill.settings import Settings, load_settings

_NEEDED = ("fastapi", "uvicorn", "uvloop", "httptools", "sqlalchemy", "alembic", "prometheus_client", "multipart")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 is this machine only.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = None,
    database: Annotated[str | None, typer.Option(help="sqlite, sqlite:///PATH, or postgresql://…")] = None,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, redis://…, or none.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="URL of an OpenAI-compatible server, or embedded; repeat for a pool.")
    ] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="Let endpoints with different models share the work.")] = False,
    engine: Annotated[str | None, typer.Option(help="Without an endpoint: auto, embedded or vllm.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    gpu_layers: Annotated[int | None, typer.Option(min=0, help="Layers of the embedded model on a GPU.")] = None,
    task: Annotated[str | None, typer.Option(help="The default task: built-in, or a task file.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="For the default task: auto, none, or one by file, name or id.")
    ] = None,
    tasks_dir: Annotated[Path | None, typer.Option(help="A folder of more task files.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the database and the files of jobs are kept.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests to the model in flight.")] = None,
    queue: Annotated[int | None, typer.Option(min=0, help="Single comments that may wait for the model.")] = None,
    job_workers: Annotated[int | None, typer.Option(min=0, help="Jobs worked on at once; 0: none.")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin whose pages may call the service; may be repeated.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody on this machine in without a key; loopback only.")
    ] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Mask phone, ID-card and card numbers, e-mail, house numbers.")
    ] = False,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Write comments into the log.")] = False,
) -> None:
    """Serve the HTTP API. `reviewmill keys create` makes keys; the file reviewmill.toml can set everything."""
    given = {
        "host": host,
        "port": port,
        "database": database,
        "tasks_dir": tasks_dir,
        "data_dir": data_dir,
        "queue": queue,
        "job_workers": job_workers,
        "cors_origins": cors_origin,
        "no_auth": no_auth or None,
        "log_texts": log_texts or None,
    }
    settings = load_settings(
        service={name: value for name, value in given.items() if value is not None},
        cache=cache,
        **endpoint_arguments(endpoint),
        mixed=mixed or None,
        engine=engine,
        gpu_layers=gpu_layers,
        model=model,
        task=task,
        concurrency=concurrency,
        redact=redact or None,
        calibration=calibration,
    )
    _run(settings)


def check_extra() -> None:
    """Refuse where the service's libraries are not installed.

    Raises:
        SettingsError: one is missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"The service needs libraries that are not installed: {', '.join(missing)}.",
            hint="pip install 'reviewmill[service]'",
        )


def _run(settings: Settings) -> None:
    check_extra()
    from reviewmill.server.run import serve as run

    def ready(url: str) -> None:
        service = settings.service
        notes = "; no keys are needed" if service.no_auth else ""
        notes += "; comments are logged" if service.log_texts else ""
        typer.echo(f"reviewmill serves {url}{notes}", err=True)

    run(settings, ready)
