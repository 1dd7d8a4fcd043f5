#!/usr/bin/env bash
# Native tests, and tests/ops on a module of its own, under sanitizers. Wants cmake, ninja and the Python of the
# environment first on PATH, as `make sanitize` sets it, and a g++ with its sanitizers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CXX=${CXX:-g++}
export CXX
PACKAGE=$PWD/build/sanitize/package

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# Runs a command that a sanitizer must stop with this report. A sanitizer that is not at work says nothing too.
stops() {
    local report=$1 output
    shift
    if output=$("$@" 2>&1); then fail "nothing stopped $*"; fi
    grep -qF -- "$report" <<<"$output" || fail "$* did not report '$report' but: $output"
    printf 'caught: %s\n' "$report"
}

library() {
    local path
    path=$($CXX -print-file-name="$1")
    [[ -e $path ]] || fail "$CXX has no $1"
    printf '%s' "$path"
}

# ThreadSanitizer of older compilers does not know every layout of memory that newer kernels choose at random.
fixed_layout() {
    if setarch "$(uname -m)" -R true 2>/dev/null; then setarch "$(uname -m)" -R "$@"; else "$@"; fi
}

native() {
    local preset=$1
    shift
    printf '\n==> %s: native tests\n' "$preset"
    cmake --preset "$preset" "$@" >/dev/null
    cmake --build --preset "$preset" --target all planted >/dev/null || fail "the build of $preset"
}

native thread
stops 'WARNING: ThreadSanitizer: data race' fixed_layout build/thread/tests/native/planted_race
fixed_layout ctest --preset thread

native sanitize -DPython_EXECUTABLE="$(command -v python)" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" \
    -DSKBUILD_PROJECT_VERSION="$(python -c 'import importlib.metadata as m; print(m.version("ribs-quant"))')"
stops 'AddressSanitizer: heap-buffer-overflow' build/sanitize/tests/native/planted_heap_overflow
stops 'runtime error: signed integer overflow' build/sanitize/tests/native/planted_signed_overflow
ctest --preset sanitize

printf '\n==> sanitize: Python module\n'
rm -rf "$PACKAGE"
mkdir -p "$PACKAGE"
cp -r python/ribs "$PACKAGE/"
rm -f "$PACKAGE"/ribs/_core*.so
cmake --install build/sanitize --prefix "$PACKAGE" >/dev/null

# The interpreter was built without sanitizers, so their libraries are loaded first; with libstdc++, since
# AddressSanitizer looks for the function that throws before torch has loaded it. Leaks are not looked for: Python
# and torch keep much until the process ends.
sanitized() {
    env LD_PRELOAD="$(library libasan.so) $(library libubsan.so) $(library libstdc++.so)" \
        ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$PACKAGE" OMP_NUM_THREADS=1 "$@"
}

overflow='import ctypes, sys, torch
x = torch.zeros(5)
ctypes.CDLL(sys.argv[1]).write_past_the_end(ctypes.c_size_t(x.data_ptr()), ctypes.c_int64(x.numel()))'
stops 'AddressSanitizer: heap-buffer-overflow' \
    sanitized python -c "$overflow" build/sanitize/tests/native/libplanted_library.so
[[ $(sanitized python -c 'import ribs._core as core; print(core.__file__)') == "$PACKAGE"/* ]] ||
    fail 'Python does not load the module with sanitizers'
# Slow tests are slow for their size, which a sanitizer has nothing to say about.
sanitized python -m pytest tests/ops -q -n 2 -m "not slow" -p no:cacheprovider
