"""`reviewmill engine`: vLLM planned for a card, installed, started, looked after and stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reviewmill.cli import engine_show, engine_work
from reviewmill.settings import load_settings

app = typer.Typer(help="vLLM beside us: plan, install, start, stop, status, logs.", no_args_is_help=True)

Model = Annotated[
    str | None, typer.Option(help="A catalog model for vLLM, or a folder; without, the best one that fits.")
]
Gpu = Annotated[str, typer.Option(help="auto, cpu, a card (rtx3060), or several (2x3090).")]
TaskName = Annotated[str | None, typer.Option("--task", help="The task whose questions are counted.")]
Comments = Annotated[Path | None, typer.Option(help="A file of comments whose lengths are measured.")]
Keywords = Annotated[bool | None, typer.Option(help="Whether keywords are asked for.")]
Length = Annotated[int | None, typer.Option(min=512, help="Tokens of one question and its answer.")]
Quantization = Annotated[
    Literal["auto", "none", "awq", "gptq", "fp8"], typer.Option(help="A check of what the model holds; fp8 is made.")
]
KvCache = Annotated[Literal["auto", "fp8"], typer.Option(help="fp8 halves the key-value cache.")]
Share = Annotated[float | None, typer.Option(min=0.05, max=1.0, help="Share of the card's memory for vLLM.")]
Cards = Annotated[int | None, typer.Option(min=1, help="Cards that share one copy of the model.")]
Sequences = Annotated[int | None, typer.Option(min=1, max=4096, help="Comments answered at once.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")]
Eager = Annotated[bool, typer.Option("--eager", help="Start sooner, answer slower.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def plan(
    model: Model = None,
    gpu: Gpu = "auto",
    task: TaskName = None,
    comments: Comments = None,
    keywords: Keywords = None,
    max_model_len: Length = None,
    quantization: Quantization = "auto",
    kv_cache: KvCache = "auto",
    gpu_memory_utilization: Share = None,
    tensor_parallel: Cards = None,
    max_num_seqs: Sequences = None,
    port: Port = 8000,
    eager: Eager = False,
    as_json: AsJson = False,
) -> None:
    """Reckon what fits a card, and print the command with a reason for each option. Starts nothing."""
    settings = load_settings(task=task, keywords=keywords)
    asked = _asked(
        max_model_len, quantization, kv_cache, gpu_memory_utilization, tensor_parallel, max_num_seqs, port, eager
    )
    _, made = engine_work.make(settings, model, gpu, comments, asked)
    folder = engine_work.folder_of(settings, made.model, model)
    if as_json:
        said = made.as_json() | {"command": made.command(folder, engine_work.key_file(settings))}
        typer.echo(json.dumps(said, ensure_ascii=False, indent=2, default=str))
        return
    engine_show.show_plan(made, made.command(folder, engine_work.key_file(settings)))


@app.command()
def install(
    kind: Annotated[
        Literal["auto", "cuda", "cpu"], typer.Option(help="For NVIDIA cards, or for a processor; auto looks.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.")] = False,
) -> None:
    """Install the pinned vLLM into an environment of its own (CPU: 3.5 GB; GPU: about 12 GB)."""
    made = engine_work.install(load_settings(), kind, None if quiet else lambda line: typer.echo(line, err=True))
    typer.echo(f"vLLM {made.vllm} for {made.kind} is in {made.folder} ({made.seconds:.0f} s)")


@app.command()
def path(
    kind: Annotated[Literal["auto", "cuda", "cpu"], typer.Option(help="Which of the two; auto looks.")] = "auto",
) -> None:
    """Print the Python interpreter of the installed vLLM."""
    typer.echo(engine_work.interpreter(load_settings(), kind))


@app.command()
def start(
    model: Model = None,
    gpu: Gpu = "auto",
    task: TaskName = None,
    comments: Comments = None,
    keywords: Keywords = None,
    max_model_len: Length = None,
    quantization: Quantization = "auto",
    kv_cache: KvCache = "auto",
    gpu_memory_utilization: Share = None,
    tensor_parallel: Cards = None,
    max_num_seqs: Sequences = None,
    port: Port = 8000,
    eager: Eager = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready, and try it with real questions.")] = True,
) -> None:
    """Start vLLM as `plan` says; it runs on after this command, and is started again if it dies."""
    settings = load_settings(task=task, keywords=keywords)
    asked = _asked(
        max_model_len, quantization, kv_cache, gpu_memory_utilization, tensor_parallel, max_num_seqs, port, eager
    )
    url = engine_work.start(settings, model, gpu, comments, asked)
    typer.echo(f"vLLM starts at {url}; `reviewmill engine logs` shows what it says.", err=True)
    if wait:
        began = time.monotonic()
        engine_work.wait_ready(settings, lambda said: typer.echo(said, err=True))
        typer.echo(f"ready after {time.monotonic() - began:.0f} s", err=True)
        _check(settings)


@app.command()
def stop() -> None:
    """Stop vLLM and everything that it started."""
    typer.echo("vLLM is stopped." if engine_work.stop(load_settings()) else "vLLM was not running.")


@app.command()
def status(
    check: Annotated[bool, typer.Option("--check", help="Try it with real questions too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show whether vLLM runs, how busy it is, and what its cache finds."""
    settings = load_settings()
    seen = engine_work.look(settings)
    if as_json:
        typer.echo(json.dumps(seen, ensure_ascii=False, indent=2, default=str))
    else:
        engine_show.show_status(seen)
    if seen["state"] not in {"ready", "unhealthy"}:
        raise typer.Exit(1)
    if check:
        _check(settings)


@app.command()
def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it says more.")] = False,
) -> None:
    """Show what vLLM said."""
    for line in engine_work.log_lines(load_settings(), lines, follow=follow):
        typer.echo(line)


def _check(settings: Any) -> None:
    good = True
    for check in engine_work.checks(settings):
        mark, colour = ("✓", "green") if check.good else ("✗", "red")
        typer.secho(f"{mark} ", fg=colour, nl=False)
        typer.echo(f"{check.what}: {check.said}")
        good = good and check.good
    if not good:
        raise typer.Exit(1)


def _asked(
    max_model_len: int | None,
    quantization: Literal["auto", "none", "awq", "gptq", "fp8"],
    kv_cache: Literal["auto", "fp8"],
    utilization: float | None,
    tensor_parallel: int | None,
    sequences: int | None,
    port: int,
    eager: bool,
) -> Any:
    from reviewmill.endpoints.vllm.asked import Asked

    return Asked(max_model_len, quantization, kv_cache, tensor_parallel, utilization, sequences, port, eager)
