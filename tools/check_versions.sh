#!/usr/bin/env bash
# What depends on the versions of transformers and its kin, in the environment at hand; stops at the first failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python -c 'import torch, transformers; print("transformers", transformers.__version__, "torch", torch.__version__)'
pytest -x tests/test_upstream.py
pytest -x -n 2 --dist loadfile tests/golden tests/test_engine.py tests/test_engine_calls.py tests/test_engine_numbers.py tests/test_calls.py tests/test_batches.py tests/test_static.py
pytest -x tests/test_families.py -k "before or generat"
fastadasp compare --strategies weighted,prune,random --tasks asr --limit 4 --output "$scratch/run"
