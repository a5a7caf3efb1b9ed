#!/usr/bin/env bash
# Says whether the project works on a release of transformers: tools/try_versions.sh 5.25 [more requirements for pip...]
# Makes a fresh environment, installs that release whatever pyproject.toml allows, and runs tools/check_versions.sh.
# PYTHON names another interpreter than python3; TORCH another requirement than torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 1 ] || { echo "usage: tools/try_versions.sh VERSION [REQUIREMENT...]" >&2; exit 2; }
version=$1
shift
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

"${PYTHON:-python3}" -m venv "$scratch/venv"
# shellcheck disable=SC1091
. "$scratch/venv/bin/activate"
python -m pip install --quiet "${TORCH:-torch}" "transformers~=$version.0" "$@"
python -c 'import tomllib; print("\n".join(r for r in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if not r.startswith(("torch", "transformers"))))' >"$scratch/rest.txt"
python -m pip install --quiet -r "$scratch/rest.txt" pytest pytest-xdist hypothesis
python -m pip install --quiet --no-deps -e .
if tools/check_versions.sh; then
  echo "transformers $version works: raise the cap in pyproject.toml and NEWEST in fastadasp/upstream, and add it to the changelog"
else
  echo "transformers $version does not work yet: see above" >&2
  exit 1
fi
