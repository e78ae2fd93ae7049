"""The real model on the real vLLM, on this machine's processors: does it work, and what does each part cost?

    python benchmarks/vllm_engine.py [--rows 24] [--folder DIR]

Converts the embedded model's GGUF to bfloat16 (3.1 GB in DIR; kept), starts vLLM as `reviewmill engine` plans it, tries
it with real questions, analyses comments with and without keywords and in JSON, and stops it. The labels are compared
with those of the embedded engine, which has the same weights in their quantised form. `make test-vllm` runs it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reviewmill import SentimentAnalyzer
from reviewmill.endpoints.vllm.environment import installed
from reviewmill.models import resolve
from reviewmill.settings import DEFAULT_MODEL, load_settings

HERE = Path(__file__).parent
WAYS: dict[str, dict[str, Any]] = {
    "label": {"keywords": False},
    "compact": {"keywords": True, "wire": "compact"},
    "json": {"keywords": True, "wire": "json"},
}


def reviewmill(*arguments: object) -> str:
    """Run the command line; end with what it said if it fails."""
    command = [sys.executable, "-m", "reviewmill", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        sys.exit(f"reviewmill {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done.stdout


def weights(folder: Path) -> Path:
    """The embedded model's weights as vLLM reads them."""
    settings = load_settings()
    made = folder / "qwen2.5-coder-1.5b"
    if not (made / "config.json").exists():
        environment = installed(settings.engine_dir, "cpu")
        if environment is None:
            sys.exit("vLLM is not installed: make vllm")
        gguf = resolve(DEFAULT_MODEL, models_dir=settings.models_dir).path
        script = HERE.parent / "scripts" / "vllm_model.py"
        subprocess.run([environment.python, script, "convert", gguf, made], check=True)  # noqa: S603
    return made


def ask(texts: list[str], **how: Any) -> tuple[list[str | None], float]:
    """The labels, and comments a second."""
    with SentimentAnalyzer(cache="none", **how) as analyzer:
        analyzer.analyze("随便写一句，先把任务的话算好。")
        began = time.perf_counter()
        results = analyzer.analyze_batch(texts)
        return [result["sentiment"] for result in results], len(texts) / (time.perf_counter() - began)


def main() -> None:
    """Run it and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "reviewmill-vllm")
    arguments = parser.parse_args()
    lines = (HERE.parent / "examples" / "comments.csv").read_text("utf-8").splitlines()[1:]
    texts = [line.split(",", 1)[-1].strip('"') for line in lines if len(line) > 12][: arguments.rows]
    began = time.perf_counter()
    folder = weights(arguments.folder)
    print(f"weights: {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    try:
        print(reviewmill("engine", "start", "--gpu", "cpu", "--model", folder, "--port", 0, "--max-model-len", 4096))
        print(f"ready and tried: {time.perf_counter() - began:.0f} s", flush=True)
        for name, how in WAYS.items():
            theirs, rate = ask(texts, engine="vllm", **how)
            print(f"{name}: vLLM {rate:.2f} comments/s; {len(texts)} comments, {theirs.count(None)} errors", flush=True)
            if name == "label":
                ours, own_rate = ask(texts, engine="embedded", **how)
                same = sum(a == b for a, b in zip(theirs, ours, strict=True))
                print(f"embedded: {own_rate:.2f} comments/s; {same} of {len(texts)} labels the same", flush=True)
        status = json.loads(reviewmill("engine", "status", "--json"))
        print(json.dumps(status["metrics"], indent=2))
        print(f"planned tokens of cache: {status['planned_kv_tokens']:,}")
    finally:
        print(reviewmill("engine", "stop"))


if __name__ == "__main__":
    main()
