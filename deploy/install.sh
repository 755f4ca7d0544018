#!/usr/bin/env bash
# Install Plait and its pinned dependencies into a virtual environment; make one where there is none. Safe to run again.
#
#   deploy/install.sh VENV EXTRA...        e.g.  deploy/install.sh .venv dev
#
# PYTHON  interpreter for a new environment; by default the first of python3.11, 3.12, 3.13 and python3 that fits
# TORCH   which build of PyTorch: cpu or cuda; by default cuda where there is an NVIDIA GPU and cpu elsewhere
#
# A machine without a GPU is never given a CUDA build with its gigabytes of libraries: on Linux the CPU build is asked for by its full
# version (+cpu), first from the package sources pip is set up with, then from PyTorch's own index, and otherwise this script stops.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly venv=$1 extras=$(IFS=,; echo "${*:2}")
readonly torch_cpu_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
readonly index_timeout_s=10
torch_version=$(sed -n 's/^torch==//p' constraints.txt)
readonly torch_version

say() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: %s\n' "$@" >&2; exit 1; }

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if fits "$candidate"; then echo "$candidate"; return; fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found (tried: ${PYTHON:-python3.11 python3.12 python3.13 python3}). Name one with PYTHON=..."
}

make_environment() {
    if [[ -x $venv/bin/python ]]; then return; fi
    local python
    python=$(find_python)
    say "making the virtual environment $venv with $("$python" --version)"
    "$python" -m venv "$venv" || fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
}

torch_build() {
    if [[ -n ${TORCH:-} ]]; then echo "$TORCH"
    elif [[ -e /dev/nvidia0 ]] || nvidia-smi --list-gpus >/dev/null 2>&1; then echo cuda
    else echo cpu; fi
}

# pip says what it does where someone watches, and only what went wrong elsewhere.
pip_install() {
    local quiet=--quiet
    if [[ -t 1 ]]; then quiet=; fi
    "$venv/bin/python" -m pip --disable-pip-version-check install $quiet --constraint constraints.txt "$@"
}

# The build that is installed: "2.13.0 cpu", "2.13.0 cuda", or nothing.
installed_torch() {
    "$venv/bin/python" 2>/dev/null - <<'PYTHON' || true
from torch.version import __version__, cuda
print(__version__.split("+")[0], "cpu" if cuda is None else "cuda")
PYTHON
}

answers() {
    "$venv/bin/python" - "$1/torch/" "$index_timeout_s" 2>/dev/null <<'PYTHON'
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2]))
PYTHON
}

install_torch_cpu() {
    if [[ $(uname -s) != Linux ]]; then pip_install "torch==$torch_version"; return; fi  # only Linux has CUDA builds on PyPI
    local complaint
    complaint=$(mktemp)
    if pip_install "torch==$torch_version+cpu" 2>"$complaint"; then rm "$complaint"; return; fi
    say "pip's package sources gave no torch $torch_version+cpu; asking $torch_cpu_index"
    answers "$torch_cpu_index" || fail "$(tail -n 3 "$complaint")" \
        "no CPU build of torch $torch_version to be had: $torch_cpu_index does not answer." \
        "Put torch-$torch_version+cpu-*.whl into a folder and set PIP_FIND_LINKS to it, or name a mirror with TORCH_CPU_INDEX=URL." \
        "(On a machine with an NVIDIA GPU that was not recognised: TORCH=cuda.)"
    rm "$complaint"
    pip_install "torch==$torch_version+cpu" --extra-index-url "$torch_cpu_index"
}

install_torch() {
    local build
    build=$(torch_build)
    if [[ $(installed_torch) == "$torch_version $build" ]]; then return; fi
    say "installing torch $torch_version, $build build (a large download)"
    case $build in
        cpu) install_torch_cpu ;;
        # "===" is the build without a suffix, PyPI's for CUDA: "==" would take a +cpu that lies in a folder of pip's.
        cuda) pip_install "torch===$torch_version" 2>/dev/null || pip_install "torch==$torch_version" ;;
        *) fail "TORCH=$build: must be cpu or cuda" ;;
    esac
    [[ $(installed_torch) == "$torch_version $build" ]] || fail \
        "wanted the $build build of torch $torch_version, but $venv has '$(installed_torch)'." \
        "Look for another build in pip's package sources (PIP_FIND_LINKS, pip config list), or choose with TORCH=cpu|cuda."
}

make_environment
install_torch
say "installing Plait and its dependencies${extras:+ (with $extras)}"
pip_install --editable ".${extras:+[$extras]}"
say "done: $venv"
