#!/usr/bin/env bash
# Build an image for real, look into it, run it as an engine would, and let it answer words and a picture, on the CPU. As root on Debian, with
# buildah, mmdebstrap and runc; no container engine and no registry: the base is bootstrapped from Debian unless BASE names an image.
#
#   deploy/build-check.sh [DIRECTORY]             DIRECTORY keeps the storage; by default one that is removed at the end
#   TORCH=cuda deploy/build-check.sh [DIRECTORY]  the image for GPUs, with its gigabytes; on a machine without one it computes on the CPU too
set -euo pipefail

cd "$(dirname "$0")/.."
state=${1:-$(mktemp -d)}
readonly state torch=${TORCH:-cpu} user=10001:10001 port=18137 name=plait-build-check-$$
[[ $# -gt 0 ]] || trap 'chmod -R u+w "$state" 2>/dev/null; rm -rf "$state"' EXIT

say() { printf 'build-check: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
container_tool() { buildah --storage-driver vfs --root "$state/storage" --runroot "$state/run" "$@"; }

for tool in buildah mmdebstrap runc; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install -y --no-install-recommends buildah mmdebstrap runc"
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
    local root=$1 found
    found=$(chroot "$root" /bin/sh -c "command -v cc gcc g++ clang as ld make pip pip3" || true)
    [[ -z $found ]] || fail "the image holds tools of the build: $found"
    found=$(find "$root/root/.cache" "$root/var/lib/apt/lists" "$root/home/plait/.cache" -type f -size +0 2>/dev/null | head -n 3 || true)
    [[ -z $found ]] || fail "the image holds caches: $found"
    say "size: $(du -sm --apparent-size "$root" | cut -f1) MB, of which Python and its packages $(du -sm --apparent-size "$root/opt/plait" | cut -f1) MB"
    du -sm --apparent-size "$root"/opt/plait/lib/python3*/site-packages/* | sort -rn | sed -n "1,8{s|$root||; s/^/build-check:   /p}"
}

# The image's own user, environment and command; a read-only root, no capability, no way to more; of the host it has the network.
make_bundle() {
    mkdir -p "$state/bundle"
    rm -f "$state/bundle/config.json"
    runc spec --bundle "$state/bundle"
    container_tool inspect --type image localhost/plait:$torch | python3 -c '
import json, sys
path, root, *more = sys.argv[1:]
image, spec = json.load(sys.stdin)["Docker"]["config"], json.load(open(path))
user, group = map(int, image["User"].split(":"))
spec["process"] |= {
    "terminal": False, "user": {"uid": user, "gid": group}, "cwd": image["WorkingDir"],
    "env": [*image["Env"], *more], "args": [*image["Entrypoint"], *image["Cmd"]],
}
spec["process"]["capabilities"] = {}
del spec["process"]["rlimits"]
spec["root"] = {"path": root, "readonly": True}
spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]})
json.dump(spec, open(path, "w"))
print(*image["Healthcheck"]["Test"][1:], sep="\0", end="")
' "$state/bundle/config.json" "$1" PLAIT_HOST=127.0.0.1 PLAIT_PORT=$port PLAIT_METRICS_PORT=$((port + 1)) >"$state/health"
}

inside() { runc --root "$state/runc" exec "$name" "$@"; }

answer() {
    local server health
    mapfile -d '' -t health <"$state/health"
    runc --root "$state/runc" run --bundle "$state/bundle" "$name" >"$state/server.log" 2>&1 </dev/null &
    server=$!
    for _ in $(seq 180); do
        if inside "${health[@]}" 2>/dev/null; then break; fi
        kill -0 $server 2>/dev/null || { cat "$state/server.log" >&2; fail "the server ended"; }
        sleep 1
    done
    say "healthy; asking it, as $(inside id -un), $(inside grep CapEff /proc/self/status | tr -s '\t' ' '), root $(inside awk '$2 == "/" {print $4}' /proc/mounts | cut -d, -f1)"
    python3 helm/plait/files/ask.py "http://127.0.0.1:$port" || { cat "$state/server.log" >&2; fail "no answer"; }
    ! inside touch /home/plait/anything 2>/dev/null || fail "the root can be written to"
    runc --root "$state/runc" kill "$name" TERM
    wait $server || fail "told to stop, it ended with $?"
    ! grep -q 'native CPU kernels are not available' "$state/server.log" || fail "the C kernels were not used"
    say "C kernels used; stopped by itself when told to"
}

SECONDS=0
bootstrap_base
build
container=$(container_tool from localhost/plait:$torch)
root=$(container_tool mount "$container")
[[ $(container_tool inspect --format '{{.Docker.Config.User}}' localhost/plait:$torch) == "$user" ]] || fail "the image does not run as $user"
look_inside "$root"
make_bundle "$root"
answer
say "ok, ${SECONDS} s"
