#!/bin/sh
# Installs vLLM for the processor (3.5 GB, once, outside of this folder), for the tests that are marked `vllm`, and what
# makes their models out of a GGUF file; and makes the tiny one. Where it cannot be had, those tests are skipped with the
# reason.
set -u
reviewmill="$1"
gguf="$2"
tiny="$3"

# A registry that is slow today must not take the tests' time.
bounded=
command -v timeout >/dev/null && bounded="timeout 1500"

echo "==> Installing vLLM for the processor (3.5 GB, once)"
if ! $bounded "$reviewmill" engine install --kind cpu --quiet; then
    echo "==> vLLM cannot be installed here: the tests that need it will be skipped"
    exit 0
fi
python="$("$reviewmill" engine path --kind cpu)"
"$python" -m pip install -q gguf==0.19.0 accelerate || {
    echo "==> gguf and accelerate cannot be installed here: the tests that need it will be skipped"
    exit 0
}
# Half a minute, most of it for reading a tokenizer.
if [ ! -e "$tiny" ]; then
    rm -rf "$tiny.part" && mkdir -p "$(dirname "$tiny")"
    if "$python" scripts/vllm_model.py tiny "$gguf" "$tiny.part" >"$tiny.log" 2>&1; then
        mv "$tiny.part" "$tiny"
    else
        tail -n 3 "$tiny.log"
        echo "==> No tiny model for vLLM (above): the tests that need it will be skipped"
    fi
fi
