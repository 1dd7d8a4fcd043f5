#!/usr/bin/env bash
# The sdist without CUDA, the CPU wheel from the sdist, what is in both, and the wheel in an environment of its own:
# some minutes, most of them to install torch. Everything lies in build/wheel. TORCH names a smaller torch to install,
# such as TORCH=torch==2.13.0+cpu with pip's settings for where it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python="${PYTHON:-python3}"
work="$PWD/build/wheel"
export RIBS_CUDA=OFF
unset PYTHONPATH

step() {
    printf '\n==> %s\n' "$*"
    "$@"
}

rm -rf "$work/dist" "$work/clean"
[ -x "$work/tools/bin/twine" ] || { "$python" -m venv "$work/tools" && "$work/tools/bin/pip" install -q build twine; }
step "$work/tools/bin/python" -m build --outdir "$work/dist" .
step "$work/tools/bin/twine" check --strict "$work"/dist/*
step "$work/tools/bin/python" tests/wheel/contents.py "$work/dist"
"$python" -m venv "$work/clean"
step "$work/clean/bin/pip" install -q ${TORCH:-} "$work"/dist/*.whl
cd "$work" # the sources are not there
step "$work/clean/bin/python" -W error ../../tests/wheel/smoke.py
