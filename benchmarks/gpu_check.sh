#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can show, in one run of less than 10 minutes and without network:
#   benchmarks/gpu_check.sh [folder with wheels]
# Wants Python with torch, pybind11 and scikit-build-core, nvcc, and compute-sanitizer. What else the tests import is
# installed from the folder where it is missing. A step that fails does not stop the others; the table at the end has
# all of them. LOGS names a folder for their output. Exit code: 0 all passed, 1 a step failed, 2 no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WHEELS=${1:-}
LOGS=${LOGS:-$(mktemp -d)}
mkdir -p "$LOGS"
PYTHON=${PYTHON:-python3}
readonly TOTAL=560  # seconds for all steps together
readonly FOUND=86   # the exit code of compute-sanitizer after a report
rm -f "$LOGS/table"

if ! nvidia-smi -L >/dev/null 2>&1; then
    echo 'gpu_check: no NVIDIA GPU here (nvidia-smi finds none); nothing was checked' >&2
    exit 2
fi

# step NAME SECONDS COMMAND...: runs a command or a function of this file in a shell of its own, within its time and
# what is left of the total.
step() {
    local name=$1 limit=$2 left=$((TOTAL - SECONDS)) start=$SECONDS code result=ok
    local log=$LOGS/${name//[^[:alnum:]]/_}.log
    shift 2
    ((left < limit)) && limit=$((left > 1 ? left : 1))
    timeout --kill-after=5 "$limit" bash -c '"$@"' step "$@" >"$log" 2>&1
    code=$?
    printf '\n==> %s\n%s\n' "$name" "$(tail -n 15 "$log")"
    case $code in
        0) ;;
        124 | 137) result="FAILED: more than $limit s" ;;
        *) result="FAILED: exit code $code" ;;
    esac
    printf '%-24s %4d s  %s\n' "$name" $((SECONDS - start)) "$result" >>"$LOGS/table"
}

versions() {
    nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv || return
    nvcc --version || return
    "$PYTHON" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda); torch.zeros(1).cuda()'
}

# build: the module for this GPU only, as all architectures would take minutes.
build() {
    local missing=() name
    for name in highspy numpy pytest pytest_timeout xdist hypothesis; do
        "$PYTHON" -c "import $name" 2>/dev/null || missing+=("$name")
    done
    if ((${#missing[@]})); then
        [[ -n ${WHEELS:-} ]] || { echo "missing: ${missing[*]}; give a folder of their wheels" && return 1; }
        "$PYTHON" -m pip install --no-index --no-deps "$WHEELS"/*.whl || return
    fi
    RIBS_CUDA=ON CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=native \
        "$PYTHON" -m pip install --no-build-isolation --no-deps --force-reinstall . || return
    "$PYTHON" -c 'import ribs; info = ribs.build_info(); print(info); assert info["cuda"], "built without CUDA"'
}

# The tests must have run on CUDA, not have left it out.
tests() {
    "$PYTHON" -c 'import torch; assert torch.cuda.is_available()' || return
    OMP_NUM_THREADS=1 "$PYTHON" -m pytest tests/ops tests/select/test_on_cuda.py tests/qat/test_qat_on_cuda.py -q -n 8 -p no:cacheprovider -p no:benchmark
}

# planted TOOL KERNEL: a tool must report the fault in this kernel, or its silence means nothing.
planted() {
    local tool=$1 kernel=$2 folder output code
    command -v compute-sanitizer || { echo 'compute-sanitizer is not on PATH: nothing can be shown'; return 1; }
    folder=$(mktemp -d)
    nvcc -std=c++17 -lineinfo -arch=native -o "$folder/$tool" "tests/native/planted/$tool.cu" || return
    output=$(compute-sanitizer --tool "$tool" --error-exitcode $FOUND "$folder/$tool" 2>&1)
    code=$?
    printf '%s\n' "$output"
    if [[ $code != "$FOUND" ]] || ! grep -Eq "(at|Device Frame:) .*$kernel" <<<"$output"; then
        echo "$tool did not report the planted fault (exit code $code)"
        return 1
    fi
}

# sanitize TOOL: the operators under a tool. Without torch's cache of memory each tensor is an allocation of its own,
# whose end the tool knows. Reports in kernels of torch are printed but are not ours.
sanitize() {
    local log=$LOGS/$1.txt code
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode $FOUND --print-limit 50 \
        --log-file "$log" "$PYTHON" benchmarks/gpu_exercise.py --device cuda
    code=$?
    cat "$log" || return
    grep -q 'SUMMARY' "$log" || { echo "$1 did not come to its end"; return 1; }
    if [[ $code == "$FOUND" ]] && ! grep -q 'at .*ribs::' "$log"; then
        echo "$1 reported kernels outside of ribs only"
        return 0
    fi
    return $code
}

export -f versions build tests planted sanitize
export PYTHON WHEELS LOGS FOUND

step 'card and versions' 60 versions
step 'build' 180 build
# Side by side, as none of them is timed.
step 'operators on CUDA' 60 "$PYTHON" benchmarks/gpu_exercise.py --device cuda &
step 'tests on CUDA' 180 tests &
step 'memcheck' 180 sanitize memcheck &
step 'racecheck' 180 sanitize racecheck &
step 'initcheck' 180 sanitize initcheck &
step 'synccheck' 180 sanitize synccheck &
step 'planted memcheck' 60 planted memcheck write_past_the_end &
step 'planted racecheck' 60 planted racecheck read_without_a_barrier &
step 'planted initcheck' 60 planted initcheck read_what_nobody_wrote &
step 'planted synccheck' 60 planted synccheck waits_outside_of_its_mask &
wait
step 'benchmarks' 150 "$PYTHON" benchmarks/run.py --device cuda
printf '\n'
cat "$LOGS/benchmarks.log"

printf '\n%-24s %6s  %s\n' step time result
cat "$LOGS/table"
printf 'logs: %s\n' "$LOGS"
! grep -q FAILED "$LOGS/table"
