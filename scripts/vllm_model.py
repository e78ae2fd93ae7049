"""Makes a folder that vLLM can serve out of a GGUF file; runs in the environment of `reviewmill engine install`.

    PYTHON scripts/vllm_model.py convert MODEL.gguf FOLDER    the model itself, in bfloat16 (1.5B: 3.1 GB)
    PYTHON scripts/vllm_model.py tiny    MODEL.gguf FOLDER    its tokenizer, and tiny random weights (31 MB)

vLLM reads no GGUF itself. The weights come out as they were quantised, so this loses nothing and gains nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["convert", "tiny"])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.gguf.parent, gguf_file=arguments.gguf.name)
    model = tiny(len(tokenizer), tokenizer.eos_token_id) if arguments.what == "tiny" else converted(arguments.gguf)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.folder)
    tokenizer.save_pretrained(arguments.folder)


def tiny(vocabulary: int, end: int) -> Qwen2ForCausalLM:
    """A Qwen2 of two thin layers; the same random weights every time."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=max(vocabulary, 151936),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        eos_token_id=end,
    )
    return Qwen2ForCausalLM(config).to(torch.bfloat16)


def converted(gguf: Path) -> torch.nn.Module:
    """The model in bfloat16, without what says that it was quantised."""
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


if __name__ == "__main__":
    main()
