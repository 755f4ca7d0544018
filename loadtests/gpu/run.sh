#!/usr/bin/env bash
# Everything there is to learn from a GPU machine that has Python, PyTorch and Triton and nothing else, in under nine minutes.
#
#   loadtests/gpu/run.sh [DIR]      results go to DIR, to $OUT, or to loadtests/results/gpu
#
# ARGS="--device cpu --tiny" rehearses it on a CPU. A part that fails or outruns its limit costs no other; the script then ends with 1.
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHONUNBUFFERED=1 TRITON_DEFAULT_FP_FUSION=1 PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD"
out=${1:-${OUT:-loadtests/results/gpu}}
failed=()
mkdir -p "$out"

part() {  # part NAME SECONDS: one module of loadtests/gpu under its limit
    SECONDS=0
    # shellcheck disable=SC2086  # options, one a word
    timeout --kill-after=10 "$2" "${PYTHON:-python3}" -m "loadtests.gpu.$1" --out "$out" ${ARGS:-} 2>&1 | tee "$out/$1.log"
    local status=${PIPESTATUS[0]}
    echo "==> $1: status $status, $SECONDS s"
    if ((status)); then failed+=("$1"); fi
}

part check 60
part golden 60
part attention 110
part streams 40
part engine 180
part savings 60
part busy 40
if ((${#failed[@]})); then echo "failed: ${failed[*]}"; exit 1; fi
