"""A model's shape, from its own `config.json`: how many bytes its weights and its key-value cache take."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from reviewmill.errors import ModelError
from reviewmill.models.catalog import CatalogModel, builtin_catalog

# Dense decoders whose weights are exactly what `parameters` counts.
_COUNTED: Final = frozenset({"qwen2", "qwen3", "llama", "mistral"})
_BIASED: Final = frozenset({"qwen2"})  # on query, key and value
_NORMED: Final = frozenset({"qwen3"})  # on each head's query and key
# Documented by Qwen for its models with a window of 32,768: https://qwen.readthedocs.io (deployment, vLLM, context)
_YARN: Final = {"qwen2": 131072, "qwen3": 131072}
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the repository's weights were quantised; what its `quantization_config` says.

    Attributes:
        method: `awq`, `gptq`, `fp8`, `compressed-tensors`, ...
        bits: of one weight; None if it does not say.
        group_size: weights that share a scale; None if it does not say.
        desc_act: whether a GPTQ model orders its rows by activation, which is slower.
    """

    method: str
    bits: int | None = None
    group_size: int | None = None
    desc_act: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a model's size.

    Attributes:
        kind: `model_type` (`qwen2`, `llama`, ...).
        layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary: as in `config.json`.
        tied: whether input and output embeddings are one matrix.
        dense: whether `parameters` can count the weights.
        native: positions that the model was trained for.
        rope_theta: base of its rotary positions.
        scaled: whether its positions are stretched already.
        dtype: of the weights that are not quantised (`bfloat16`, `float16`, `float32`).
        quantisation: None for an unquantised model.
    """

    kind: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    dense: bool
    native: int
    rope_theta: float
    scaled: bool
    dtype: str
    quantisation: Quantisation | None

    @property
    def linear(self) -> list[tuple[int, int, int]]:
        """The matrices that quantisation makes smaller: (inputs, outputs, how many in the whole model)."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            (self.hidden, query, self.layers),
            (self.hidden, key, 2 * self.layers),
            (query, self.hidden, self.layers),
            (self.hidden, self.intermediate, 2 * self.layers),
            (self.intermediate, self.hidden, self.layers),
        ]

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(rows * columns * count for rows, columns, count in self.linear) + self._others

    @property
    def _others(self) -> int:
        """Embeddings, biases and norms: never quantised."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        biases = self.layers * (self.heads + 2 * self.kv_heads) * self.head_dim if self.kind in _BIASED else 0
        norms = (2 * self.layers + 1) * self.hidden
        head_norms = 2 * self.layers * self.head_dim if self.kind in _NORMED else 0
        return embeddings + biases + norms + head_norms

    def weight_bytes(self, width: int, *, online_fp8: bool = False) -> int:
        """Bytes of the weights as an engine holds them.

        Args:
            width: bytes of an unquantised number.
            online_fp8: quantised to FP8 while loading.
        """
        others = self._others * width
        if online_fp8:
            return others + sum(rows * columns * count for rows, columns, count in self.linear)
        quantised = self.quantisation
        if quantised is None:
            return self.parameters * width
        bits = quantised.bits or (8 if quantised.method == "fp8" else 4)
        # A group_size of -1 or none: one scale a column.
        return others + sum(
            count * _packed(rows, columns, bits, quantised.group_size, indexed=quantised.method == "gptq")
            for rows, columns, count in self.linear
        )

    def kv_bytes(self, width: int, tensor_parallel: int = 1) -> int:
        """Bytes that one token takes in the key-value cache of one card: keys and values of every layer."""
        heads = max(1, self.kv_heads // tensor_parallel)
        return 2 * self.layers * heads * self.head_dim * width

    @property
    def stretched(self) -> int | None:
        """The most positions that YaRN is documented to give it; None if it is not."""
        limit = _YARN.get(self.kind)
        return limit if limit and not self.scaled and self.native < limit else None


def _packed(rows: int, columns: int, bits: int, group: int | None, *, indexed: bool) -> int:
    """Bytes of one quantised matrix: the numbers, a 16-bit scale and a zero point a group, GPTQ's row index."""
    groups = -(-rows // group) if group and group > 0 else 1
    numbers = rows * columns * bits // 8
    scales = groups * columns * 2
    zeros = groups * columns * bits // 8 if bits < 8 else 0
    return numbers + scales + zeros + (4 * rows if indexed else 0)


def read_shape(config: dict[str, Any], where: str) -> Shape:
    """Read a `config.json`.

    Args:
        config: its content; of a model for pictures too, its `text_config` counts.
        where: what messages call it.

    Raises:
        ModelError: it does not describe a model that generates text.
    """
    text = {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    try:
        heads = int(text["num_attention_heads"])
        hidden = int(text["hidden_size"])
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        kind = str(text.get("model_type", "unknown"))
        return Shape(
            kind=kind,
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(text.get("intermediate_size") or 4 * hidden),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
            vocabulary=int(text["vocab_size"]),
            tied=bool(text.get("tie_word_embeddings", False)),
            dense=kind in _COUNTED and not any(text.get(key) for key in _EXPERTS),
            native=int(text["max_position_embeddings"]),
            rope_theta=float(text.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            scaled=rope.get("rope_type", rope.get("type", "default")) != "default",
            dtype=str(text.get("dtype") or text.get("torch_dtype") or "float16"),
            quantisation=_quantisation(config.get("quantization_config") or text.get("quantization_config")),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"{where} does not describe a text model that can be reckoned: {error!r}.",
            hint="Give the folder of a Hugging Face model that generates text.",
        ) from error


def _quantisation(raw: Any) -> Quantisation | None:
    if not isinstance(raw, dict):
        return None
    bits, group = raw.get("bits") or raw.get("w_bit"), raw.get("group_size") or raw.get("q_group_size")
    return Quantisation(
        str(raw.get("quant_method", "unknown")).lower(),
        int(bits) if bits else None,
        int(group) if group else None,
        bool(raw.get("desc_act", False)),
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is planned for.

    Attributes:
        name: what it is served as.
        shape: from its `config.json`.
        source: where that was read.
        weight_bytes: of its files, where they are here; None: reckoned from the shape.
        folder: its folder, where it is here.
        has_template: whether it brings a chat template; None: not known before it is here.
        stretched: the most positions with YaRN; None: not documented.
        catalog: its entry, if it has one.
    """

    name: str
    shape: Shape
    source: str
    weight_bytes: int | None
    folder: Path | None
    has_template: bool | None
    stretched: int | None
    catalog: CatalogModel | None


@cache
def _bundled() -> dict[str, tuple[dict[str, Any], str]]:
    raw = tomllib.loads(resources.files(__package__).joinpath("configs.toml").read_text("utf-8"))
    return {entry["model"]: (entry["config"], entry["source"]) for entry in raw.values()}


def find_subject(name_or_folder: str, models_dir: Path) -> Subject:
    """Find what `--model` means: a catalog model for vLLM, or a folder with a model.

    Raises:
        ModelError: there is none, or it is not one that vLLM can serve.
    """
    path = Path(name_or_folder).expanduser()
    if path.is_dir():
        return _in_folder(path.resolve(), path.resolve().name, None)
    model = builtin_catalog().get(name_or_folder)
    if model.format == "gguf":
        raise ModelError(
            f"{model.name} is a GGUF file; vLLM does not read those any more.",
            hint=_instead(model),
        )
    folder = models_dir / model.name
    if all((folder / file.name).is_file() for file in model.files):
        return _in_folder(folder, model.name, model)
    config, source = _bundled()[model.name]
    return Subject(model.name, read_shape(config, source), source, None, None, None, model.context.yarn, model)


def _instead(model: CatalogModel) -> str:
    others = [
        other.name
        for other in builtin_catalog().models
        if other.format == "safetensors" and other.family == model.family and other.parameters == model.parameters
    ]
    own = "Use it with the embedded engine (llama.cpp; --gpu-layers puts it on a GPU)."
    return f"{own} For vLLM: {' or '.join(others)}." if others else own


def _in_folder(folder: Path, name: str, model: CatalogModel | None) -> Subject:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}.", hint="A model's folder holds config.json and its .safetensors files."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a model's description.", hint="Download it again.")
    shape = read_shape(config, str(path))
    files = [file for file in folder.glob("*.safetensors") if file.is_file()]
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file.", hint="Download the model again, or give its folder.")
    return Subject(
        name,
        shape,
        str(path),
        sum(file.stat().st_size for file in files),
        folder,
        _has_template(folder),
        model.context.yarn if model else shape.stretched,
        model,
    )


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(isinstance(config, dict) and config.get("chat_template"))
