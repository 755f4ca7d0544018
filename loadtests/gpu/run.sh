#!/usr/bin/env bash
# Everything there is to learn from a GPU machine that has Python, PyTorch and Triton and nothing else, in under nine minutes.
#
#   loadtests/gpu/run.sh [DIR]      results go to DIR, to $OUT, or to loadtests/results/gpu
#
# DIR gets two files, written anew after each part: gpu.md, what is installed and all tables, and gpu.tar.gz, which holds the tables, their
# numbers as JSON, and each part's output; and at the end roofline.svg, which "python -m loadtests.gpu.roofline DIR" draws from the latter
# anywhere. Parts are in the order of what they tell; each saves what it has after every line.
# ARGS="--device cpu --tiny" rehearses it on a CPU. A part that fails or outruns its limit costs no other and is named among the tables; the
# script then ends with 1. One that loses the GPU to a fault goes on in a new process behind the measurement that lost it.
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHONUNBUFFERED=1 TRITON_DEFAULT_FP_FUSION=1 PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD"
out=${1:-${OUT:-loadtests/results/gpu}}
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
failed=()
mkdir -p "$out"

part() {  # part NAME SECONDS: one module of loadtests/gpu under its limit, ten times that in a rehearsal, whose machine may be a busy one
    local limit_s=$2
    if [[ " ${ARGS:-} " == *" --tiny "* ]]; then limit_s=$((10 * limit_s)); fi
    SECONDS=0
    # shellcheck disable=SC2086  # options, one a word
    timeout --kill-after=5 "$limit_s" "${PYTHON:-python3}" -m "loadtests.gpu.$1" --out "$parts" ${ARGS:-} 2>&1 | tee "$parts/$1.log"
    local status=${PIPESTATUS[0]}
    local ended="$1: status $status, $SECONDS s"
    if ((status == 124 || status == 137)); then ended+=", out of time: what it does not list was not measured"; fi
    if ((status)); then failed+=("$1"); fi
    echo "==> $ended" | tee -a "$parts/$1.log"
    printf '%s\n\n' "$ended" > "$parts/$1.status.md"
    cat "$parts/installed.txt" "$parts"/*.md > "$out/gpu.md" 2> /dev/null
    tar -czf "$out/gpu.tar.gz" -C "$parts" .
}

timeout --kill-after=1 10 "${PYTHON:-python3}" -m loadtests.gpu.installed 2>&1 | tee "$parts/installed.txt"
echo >> "$parts/installed.txt"
if [[ " ${ARGS:-} " != *" --device cpu "* ]]; then  # a CPU interprets kernels
    timeout --kill-after=5 100 "${PYTHON:-python3}" -m loadtests.gpu.compiling > "$parts/compiling.log" 2>&1 &
fi
part check 130  # on a new machine kernels are compiled meanwhile, by all processors; Triton keeps them for the parts that follow
wait
part engine 135
part attention 70
part products 20
part busy 45
part savings 55
part streams 20
part golden 25
part candidates 20
"${PYTHON:-python3}" -m loadtests.gpu.roofline "$out"
cat "$out/gpu.md"
if ((${#failed[@]})); then echo "failed: ${failed[*]}"; exit 1; fi
