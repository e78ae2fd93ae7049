"""What vLLM would run on: a card from the table, the cards of this machine, or its processors."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from reviewmill.errors import SettingsError
from reviewmill.models.hardware import detect

if TYPE_CHECKING:
    from reviewmill.models.hardware import Gpu, Hardware

MIB: Final = 1 << 20
_MOST_CARDS: Final = 64
# Memory that one kind of card is sold with varies a little between makers and drivers.
_ALIKE: Final = 0.04


class Card(BaseModel):
    """One line of `gpus.toml`; its head explains the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_mib: int = Field(gt=0)
    capability: str = Field(pattern=r"^\d+\.\d$")
    names: tuple[str, ...] = ()
    display: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """What a plan is for.

    Attributes:
        name: what messages call one of them.
        kind: `cuda` or `cpu`.
        memory: bytes of one card; of the machine, for `cpu`.
        free: bytes that are free now; None if it is not the machine at hand.
        capability: (major, minor) of a card.
        count: how many cards.
        display: whether a screen is likely to hang on it.
        features: of the processor (`avx512`, ...), for `cpu`.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    memory: int
    free: int | None = None
    capability: tuple[int, int] | None = None
    count: int = 1
    display: bool = False
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.count}x {self.name}" if self.count > 1 else self.name


@cache
def cards() -> dict[str, Card]:
    """The table of cards, by key."""
    raw = tomllib.loads(resources.files(__package__).joinpath("gpus.toml").read_text("utf-8"))
    return {key: Card.model_validate(value) for key, value in raw.items()}


def find(wanted: str, hardware: Hardware | None = None) -> Device:
    """What `--gpu` means.

    Args:
        wanted: `auto` (this machine's cards, else its processors), `cpu`, a card (`rtx3060`), or several (`2x3090`).
        hardware: this machine; None: looked at when needed.

    Raises:
        SettingsError: no such card is known.
    """
    text = wanted.strip().lower()
    if text in {"auto", "cpu"}:
        hardware = hardware or detect()
        return _here(hardware) if text == "auto" and hardware.gpus else _processors(hardware)
    several = re.fullmatch(r"(\d{1,3})\s*[x×*]\s*(.+)", text)
    count, name = (int(several[1]), several[2]) if several else (1, text)
    if not 1 <= count <= _MOST_CARDS:
        raise SettingsError(f"{wanted!r} means {count} cards.", hint=f"Give 1 to {_MOST_CARDS}, like 2x3090.")
    key = _key(name)
    if key is None:
        known = ", ".join(cards())
        raise SettingsError(
            f"The card {name!r} is not in the table.",
            hint=f"Known: {known}; several as 2x3090; auto for this machine's; cpu for its processors.",
        )
    card = cards()[key]
    return Device(key, "cuda", card.memory_mib * MIB, None, _capability(card.capability), count, card.display)


def _here(hardware: Hardware) -> Device:
    """This machine's cards; of different kinds, those with the most memory in all."""
    kinds: dict[str, list[Gpu]] = {}
    for gpu in hardware.gpus:
        kinds.setdefault(gpu.name, []).append(gpu)
    group = max(kinds.values(), key=lambda gpus: sum(gpu.memory_total for gpu in gpus))
    memory = min(gpu.memory_total for gpu in group)
    key = _key(group[0].name, memory)
    card = cards()[key] if key else None
    capability = group[0].capability or (_capability(card.capability) if card else None)
    if capability is None:
        raise SettingsError(
            f"What {group[0].name} can do is not known.",
            hint="Update its driver, or name a card of the table with --gpu.",
        )
    return Device(
        group[0].name,
        "cuda",
        memory,
        min(gpu.memory_free for gpu in group),
        capability,
        len(group),
        card.display if card else False,
    )


def _processors(hardware: Hardware) -> Device:
    return Device(
        hardware.cpu, "cpu", hardware.memory_total, hardware.memory_available, None, 1, features=hardware.features
    )


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _key(name: str, memory: int | None = None) -> str | None:
    """The table's key for a name as people or drivers write it."""
    plain = re.sub(r"nvidia|geforce|tesla |[\s_]", "", name.lower())
    bare = plain.replace("-", "")
    for key, card in cards().items():
        names = {key, key.replace("-", ""), *card.names, *(other.replace("-", "") for other in card.names)}
        if {plain, bare} & names and (memory is None or abs(card.memory_mib * MIB / memory - 1) < _ALIKE):
            return key
    return None


def with_count(device: Device, count: int) -> Device:
    """The same card, so many times."""
    return replace(device, count=count)
