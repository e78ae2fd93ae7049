"""What to find out: task files, and the prompt that a task renders to.

A task is a TOML file: labels with definitions, guidelines, examples. Its content hash is its version. The built-in
ones lie in `builtin/`. Nothing here talks to a model.
"""

from reviewmill.tasks.orders import drop_orders, drop_orders_of, orderable
from reviewmill.tasks.prompt import Prompt, render
from reviewmill.tasks.task import (
    BUILTIN_TASKS,
    Example,
    Label,
    Task,
    load_task,
    parse_task,
    task_source,
    template,
)
from reviewmill.tasks.wire import CompactWire, JsonWire, Parsed, Wire

__all__ = [
    "BUILTIN_TASKS",
    "CompactWire",
    "Example",
    "JsonWire",
    "Label",
    "Parsed",
    "Prompt",
    "Task",
    "Wire",
    "drop_orders",
    "drop_orders_of",
    "load_task",
    "orderable",
    "parse_task",
    "render",
    "task_source",
    "template",
]
