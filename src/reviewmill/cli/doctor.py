"""`reviewmill doctor`: what is here, what would run, and how fast."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Do not load the model to measure its speed.")] = False,
    endpoint: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server to look at.")] = None,
    engine: Annotated[str | None, typer.Option(help="Without an endpoint: auto, embedded or vllm.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, redis://…, or none.")] = None,
) -> None:
    """Check the machine, the model, the cache and the endpoint; say what would run and how fast it is."""
    from reviewmill.checkup import examine
    from reviewmill.settings import load_settings

    healthy = True
    for finding in examine(
        load_settings(endpoint=endpoint, engine=engine, model=model, cache=cache), measure=not quick
    ):
        mark, colour = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}[finding.state]
        typer.secho(f"{mark} ", fg=colour, nl=False)
        typer.echo(f"{finding.what}: {finding.said}")
        if finding.hint:
            typer.echo(f"    → {finding.hint}")
        healthy = healthy and finding.state != "fail"
    if not healthy:
        raise typer.Exit(1)
