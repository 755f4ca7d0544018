#!/usr/bin/env bash
# Build an image for real, look into it, and let it answer words and a picture as an unprivileged user, on the CPU. As root on Debian, with
# buildah and mmdebstrap; no container engine and no registry: the base is bootstrapped from Debian unless BASE names an image.
#
#   deploy/build-check.sh [DIRECTORY]             DIRECTORY keeps the storage; by default one that is removed at the end
#   TORCH=cuda deploy/build-check.sh [DIRECTORY]  the image for GPUs, with its gigabytes; on a machine without one it computes on the CPU too
set -euo pipefail

cd "$(dirname "$0")/.."
state=${1:-$(mktemp -d)}
readonly state torch=${TORCH:-cpu} user=10001:10001 port=18137
[[ $# -gt 0 ]] || trap 'chmod -R u+w "$state" 2>/dev/null; rm -rf "$state"' EXIT

say() { printf 'build-check: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
container_tool() { buildah --storage-driver vfs --root "$state/storage" --runroot "$state/run" "$@"; }

for tool in buildah mmdebstrap; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install -y --no-install-recommends buildah mmdebstrap"
done

# The build sees packages as the host does: pip's configuration, the folders and certificates it names.
host_mounts() {
    local path
    { python3 -m pip config debug | sed -n 's/^ *\(\/.*\), exists: True$/\1/p'
      python3 -m pip config list | grep -oE "/[^/ '][^ ']*"; } | sed 's|/simple$||' | sort -u | while read -r path; do
        if [[ -e $path ]]; then echo --volume "$(realpath "$path"):$path:ro"; fi
    done
    if [[ -d /etc/ssl/certs ]]; then echo --volume /etc/ssl/certs:/etc/ssl/certs:ro; fi
}

bootstrap_base() {
    if [[ -n ${BASE:-} ]] || container_tool inspect localhost/base:bookworm >/dev/null 2>&1; then return; fi
    say "bootstrapping the base"
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$state/base.tar"
    local container
    container=$(container_tool from scratch)
    container_tool add --quiet "$container" "$state/base.tar" / >/dev/null
    container_tool commit --quiet "$container" localhost/base:bookworm >/dev/null
    rm "$state/base.tar"
}

build() {
    say "building"
    mkdir -p "$state"
    local mounts
    mapfile -t mounts < <(host_mounts | tr ' ' '\n')
    container_tool bud --isolation chroot --network host --format docker --quiet --build-arg "BASE=${BASE:-localhost/base:bookworm}" \
        --build-arg "TORCH=$torch" "${mounts[@]}" --tag localhost/plait:$torch .
}

look_inside() {
    local root=$1 found tools='g++ clang make pip pip3'
    if [[ $torch == cpu ]]; then tools+=' cc gcc as ld'; fi
    found=$(chroot "$root" /bin/sh -c "command -v $tools" || true)
    [[ -z $found ]] || fail "the image holds tools of the build: $found"
    found=$(find "$root/root/.cache" "$root/var/lib/apt/lists" "$root/home/plait/.cache" -type f -size +0 2>/dev/null | head -n 3 || true)
    [[ -z $found ]] || fail "the image holds caches: $found"
    say "size: $(du -sm --apparent-size "$root" | cut -f1) MB, of which Python and its packages $(du -sm --apparent-size "$root/opt/plait" | cut -f1) MB"
    du -sm --apparent-size "$root"/opt/plait/lib/python3*/site-packages/* | sort -rn | head -n 8 | sed "s|$root||; s/^/build-check:   /"
}

answer() {
    local container=$1 root=$2 server
    touch "$state/before"
    sleep 1
    container_tool run --isolation chroot --network host --user "$user" --env PLAIT_HOST=127.0.0.1 --env PLAIT_PORT=$port \
        --env PLAIT_METRICS_PORT=$((port + 1)) "$container" -- plait serve >"$state/server.log" 2>&1 &
    server=$!
    for _ in $(seq 180); do
        if python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/readyz', timeout=2)" 2>/dev/null; then break; fi
        kill -0 $server 2>/dev/null || { cat "$state/server.log" >&2; fail "the server ended"; }
        sleep 1
    done
    say "asking, as user $user"
    python3 helm/plait/files/ask.py "http://127.0.0.1:$port" || { cat "$state/server.log" >&2; fail "no answer"; }
    find "$root" -xdev -type f -newer "$state/before" -not -path "$root/tmp/*" -not -path "$root/proc/*" -not -path "$root/run/*" >"$state/written"
    container_tool run --isolation chroot --user "$user" "$container" -- python -c "
import os, signal
for entry in filter(str.isdigit, os.listdir('/proc')):
    try:
        command = open(f'/proc/{entry}/cmdline').read()
        if 'plait' in command and '$port' in open(f'/proc/{entry}/environ').read() and 'serve' in command: os.kill(int(entry), signal.SIGTERM)
    except OSError: pass
" || true
    wait $server || true
    [[ ! -s $state/written ]] || fail "the server wrote outside /tmp: $(head -n 3 "$state/written")"
    grep -q 'native CPU kernels are not available' "$state/server.log" && fail "the C kernels were not used"
    say "nothing written outside /tmp, C kernels used"
}

SECONDS=0
bootstrap_base
build
container=$(container_tool from localhost/plait:$torch)
root=$(container_tool mount "$container")
[[ $(container_tool inspect --format '{{.Docker.Config.User}}' localhost/plait:$torch) == "$user" ]] || fail "the image does not run as $user"
look_inside "$root"
answer "$container" "$root"
say "ok, ${SECONDS} s"
