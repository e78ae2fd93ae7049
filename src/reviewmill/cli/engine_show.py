"""How plans and the engine's state are shown."""

from __future__ import annotations

import time
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from reviewmill.cli.show import console
from reviewmill.endpoints.vllm.budget import GIB
from reviewmill.endpoints.vllm.plan import Plan

_BAR: Final = 30


def show_plan(plan: Plan, command: str) -> None:
    """Print a plan: the budget, the options with their reasons, what else there is to know, the command."""
    screen = console()
    shared = f" of each of {plan.device.count} cards" if plan.device.count > 1 else ""
    million = f"{plan.parameters / 1e9:.2f} billion parameters, " if plan.parameters else ""
    screen.print(
        f"[bold]{escape(plan.model)}[/bold] on [bold]{escape(str(plan.device))}[/bold]: {million}{plan.weights}"
    )
    screen.print(f"[dim]read from {escape(plan.source)}[/dim]")
    screen.print()
    screen.print(_budget(plan, shared))
    screen.print()
    screen.print(*_capacity(plan), sep="\n")
    screen.print()
    table = Table("option", "value", "why", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for flag in (*plan.flags, *plan.environment):
        table.add_row(flag.name, escape(flag.value or ""), escape(flag.reason))
    screen.print(table)
    for note in plan.notes:
        screen.print(f"note: {escape(note)}")
    screen.print()
    # Not wrapped: it is to be copied.
    screen.print(command, soft_wrap=True, markup=False)


def _budget(plan: Plan, shared: str) -> Table:
    budget = plan.budget
    table = Table(f"memory{shared}", "GiB", "", box=None, header_style="bold", padding=(0, 2, 0, 0))
    rows = [
        ("weights", budget.weights, plan.weights),
        (
            "computing",
            budget.activations,
            f"{plan.load.batched:,} tokens a step, {plan.load.sequences} answers at once",
        ),
        ("the engine itself", budget.engine, "CUDA, graphs, buffers" if plan.device.kind == "cuda" else "processes"),
        ("key-value cache", budget.kv, f"{budget.kv_per_token / 1024:g} KiB a token: {budget.tokens:,} tokens"),
        ("left alone", budget.left_alone, "a screen, the driver, other programs"),
    ]
    for what, size, why in rows:
        bar = "█" * round(max(0, size) / budget.total * _BAR)
        table.add_row(what, f"{size / GIB:.2f}", f"{bar} {why}".strip())
    table.add_row("in all", f"{budget.total / GIB:.2f}", "")
    return table


def _capacity(plan: Plan) -> list[str]:
    lengths, budget = plan.lengths, plan.budget
    return [
        f"Tokens of the task ({lengths.source}): {lengths.prefix:,} the same for all, {lengths.comment} a typical "
        f"comment with its frame, {lengths.comment_long} a long one, {lengths.answer} an answer.",
        f"The cache holds {budget.sequences:,} long comments at once ({budget.sequences_typical:,} typical ones), or "
        f"{budget.tokens // plan.max_model_len:,} of {plan.max_model_len:,} tokens.",
    ]


def show_status(seen: dict[str, Any]) -> None:
    """Print the engine's state."""
    screen = console()
    if seen.get("never_started"):
        screen.print("vLLM was never started here.   → reviewmill engine start")
        return
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seen["since"]))
    colour = {"ready": "green", "failed": "red", "stopped": "yellow"}.get(seen["state"], "yellow")
    screen.print(f"vLLM {seen['vllm'] or ''} is [{colour}]{seen['state']}[/{colour}] since {since}")
    screen.print(f"  {escape(str(seen['model']))} at {seen['url']}, planned for {escape(str(seen['device']))}")
    if seen["restarts"] or (seen["last_end"] and seen["state"] != "stopped"):
        screen.print(f"  started again {seen['restarts']} times; last: {escape(str(seen['last_end']))}")
    measured = seen["metrics"]
    if measured is None:
        return
    rate = "nothing yet" if measured["hit_rate"] is None else f"{measured['hit_rate']:.1%} of prompt tokens"
    finished = ", ".join(f"{reason} {count:,}" for reason, count in measured["finished"].items()) or "none"
    screen.print(
        f"  now: {measured['running']} computed of at most {seen['max_num_seqs']}, {measured['waiting']} waiting"
    )
    held = f"{measured['kv_usage']:.1%} in use"
    if measured["kv_tokens"]:
        held += f" of {measured['kv_tokens']:,} tokens (planned: {seen['planned_kv_tokens']:,})"
    screen.print(f"  key-value cache: {held}; thrown out and computed again: {measured['preemptions']:,}")
    screen.print(f"  prefix cache found: {rate}")
    screen.print(
        f"  since its start: {measured['prompt_tokens']:,} prompt tokens, {measured['generated_tokens']:,} generated; "
        f"questions ended by {finished}"
    )
