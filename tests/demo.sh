#!/usr/bin/env bash
# Shows on one machine what torrent-cache is for: an image is pulled through three hosts' clients, one
# after the other, and the table says where the bytes of each pull came from.
#
#   make demo                  or: tests/demo.sh
#   LAYERS=3 MIB=64 tests/demo.sh
#   BINARY=path/to/torrent-cache tests/demo.sh        instead of building one
#
# Each client has a loopback address of its own, 127.0.0.11 and up, as if it were a host. Everything
# listens on ports that are free, and ends with this script.
set -euo pipefail
cd "$(dirname "$0")/.."

layers=${LAYERS:-3}
mib=${MIB:-64}
clients=3
work=$(mktemp -d "${TMPDIR:-/tmp}/torrent-cache-demo.XXXXXX")
pids=()

say() { printf '\033[1m%s\033[0m\n' "$*"; }

# Ends what this script started, newest first, by process id.
cleanup() {
  local status=$? index pid
  trap - EXIT
  trap '' INT TERM
  for ((index = ${#pids[@]} - 1; index >= 0; index--)); do
    kill -TERM "${pids[index]}" 2>/dev/null || true
  done
  for pid in "${pids[@]}"; do
    for _ in $(seq 150); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  if ((status != 0)); then
    for log in "$work"/*.log; do
      [[ -s $log ]] || continue
      say "--- the end of ${log##*/}"
      tail -n 15 "$log"
    done >&2
  fi
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: in the background, its output in NAME.log.
start() {
  local name=$1
  shift
  "$@" >"$work/$name.log" 2>&1 &
  pids+=($!)
}

# wait_for WHAT COMMAND...: until the command succeeds, at most 30 s; fails if a process has ended.
wait_for() {
  local what=$1 pid
  shift
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2>/dev/null || { echo "a process ended before $what" >&2; return 1; }
    done
    sleep 0.1
  done
  echo "waited 30 s for $what" >&2
  return 1
}

ready() { curl -fsS --noproxy '*' "http://127.0.0.1:$1/ready"; }

say "1/5 tools and the program"
missing=()
for pair in etcd:etcd-server docker-registry:docker-registry skopeo:skopeo curl:curl python3:python3; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
if ((${#missing[@]})); then
  tests/install.sh "${missing[@]}"
fi
binary=${BINARY:-}
if [[ -z $binary ]]; then
  cargo build --release --locked
  binary=${CARGO_TARGET_DIR:-target}/release/torrent-cache
fi

# Three ports for etcd and the tracker, one for the registry, three for each client.
read -r -a ports <<<"$(python3 - $((4 + 3 * clients)) <<'PY'
import socket, sys
held = []
while len(held) < int(sys.argv[1]):
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 0))
    held.append(tcp)
print(*(tcp.getsockname()[1] for tcp in held))
PY
)"
tracker_port=${ports[0]} etcd_port=${ports[1]} tracker_admin=${ports[2]} registry_port=${ports[3]}

say "2/5 a tracker with its etcd, and a registry"
start tracker "$binary" tracker --interface 127.0.0.1 --tracker-port "$tracker_port" \
  --etcd-port "$etcd_port" --admin "127.0.0.1:$tracker_admin" --storage "$work/tracker"
cat >"$work/registry.yml" <<YML
version: 0.1
log: { level: warn }
storage: { filesystem: { rootdirectory: $work/registry } }
http: { addr: "127.0.0.1:$registry_port" }
YML
start registry env OTEL_TRACES_EXPORTER=none docker-registry serve "$work/registry.yml"
wait_for "the tracker is ready" ready "$tracker_admin"
wait_for "the registry answers" curl -fsS --noproxy '*' "http://127.0.0.1:$registry_port/v2/"

say "3/5 an image: $layers layers of $mib MiB of random bytes"
python3 - "$work/image" "$layers" "$mib" <<'PY'
import gzip, hashlib, io, json, os, sys, tarfile
folder, layers, mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.makedirs(folder)
def put(content):
    digest = hashlib.sha256(content).hexdigest()
    with open(f"{folder}/{digest}", "wb") as file:
        file.write(content)
    return {"size": len(content), "digest": f"sha256:{digest}"}
docker, listed, ids = "application/vnd.docker.", [], []
for number in range(layers):
    content, tar = os.urandom(mib << 20), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo(f"random-{number}")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    ids.append("sha256:" + hashlib.sha256(tar.getvalue()).hexdigest())
    blob = gzip.compress(tar.getvalue(), compresslevel=0)
    listed.append({"mediaType": docker + "image.rootfs.diff.tar.gzip"} | put(blob))
config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}
config = {"mediaType": docker + "container.image.v1+json"} | put(json.dumps(config).encode())
manifest = {"schemaVersion": 2, "mediaType": docker + "distribution.manifest.v2+json", "config": config, "layers": listed}
with open(f"{folder}/manifest.json", "w") as file:
    json.dump(manifest, file)
with open(f"{folder}/version", "w") as file:
    file.write("Directory Transport Version: 1.1\n")
PY
skopeo --insecure-policy copy --quiet --dest-tls-verify=false --dest-no-creds --preserve-digests \
  "dir:$work/image" "docker://127.0.0.1:$registry_port/library/demo:latest"

say "4/5 $clients clients, as on $clients hosts"
for ((n = 1; n <= clients; n++)); do
  at=$((4 + 3 * (n - 1)))
  host=127.0.0.$((10 + n))
  start "client-$n" "$binary" client --interface "$host" --advertise "$host" --port "${ports[at]}" \
    --admin "127.0.0.1:${ports[at + 1]}" \
    --torrent-first-port "${ports[at + 2]}" --torrent-last-port "${ports[at + 2]}" \
    --tracker "http://127.0.0.1:$tracker_port/announce" \
    --etcd-host 127.0.0.1 --etcd-port "$etcd_port" \
    --registry-location "http://127.0.0.1:$registry_port" \
    --storage "$work/client-$n" --certfile "$work/cert-$n.pem" --privatekey "$work/key-$n.pem"
done
for ((n = 1; n <= clients; n++)); do
  wait_for "client $n is ready" ready "${ports[4 + 3 * (n - 1) + 1]}"
done

say "5/5 the same pull through each client"
for ((n = 1; n <= clients; n++)); do
  at=$((4 + 3 * (n - 1)))
  echo "  client $n: pulling $((layers * mib)) MiB ..."
  begin=$(date +%s%N)
  skopeo --insecure-policy copy --quiet --src-tls-verify=false --src-no-creds \
    "docker://127.0.0.$((10 + n)):${ports[at]}/library/demo:latest" "dir:$work/pulled-$n"
  echo "$n $((($(date +%s%N) - begin) / 1000000))" >>"$work/pulls"
  curl -fsS --noproxy '*' "http://127.0.0.1:${ports[at + 1]}/status.json" >"$work/status-$n.json"
  curl -fsS --noproxy '*' "http://127.0.0.1:${ports[at + 1]}/metrics" >"$work/metrics-$n"
done

python3 - "$work" <<'PY'
import hashlib, json, os, re, sys
folder = sys.argv[1]
pulls = [list(map(int, line.split())) for line in open(f"{folder}/pulls")]
names = {f"127.0.0.{10 + number}": f"client {number}" for number, _ in pulls}
def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
def counted(number, source):
    text = open(f"{folder}/metrics-{number}").read()
    found = re.search(r'^torrent_cache_blob_bytes_total\{source="%s"\} (\d+)$' % source, text, re.M)
    return int(found[1])
manifest = json.load(open(f"{folder}/image/manifest.json"))
blobs = [blob["digest"].removeprefix("sha256:") for blob in [manifest["config"]] + manifest["layers"]]
columns = list(names.values())
print(f"\n{'':10}{'seconds':>9}{'upstream':>12}" + "".join(f"{'from ' + c:>16}" for c in columns)
      + f"{'peers, all':>13}   digests")
for number, ms in pulls:
    peers = {}
    for transfer in json.load(open(f"{folder}/status-{number}.json"))["transfers"]:
        for address, count in transfer["sources"]["peers"].items():
            name = names.get(address, address)
            peers[name] = peers.get(name, 0) + count
    for blob in blobs:
        got = digest(f"{folder}/pulled-{number}/{blob}")
        if got != blob:
            sys.exit(f"client {number}: {blob} came as {got}")
    mib = lambda count: f"{count / 2**20:.1f} MiB"
    print(f"client {number:<3}{ms / 1000:>9.2f}{mib(counted(number, 'upstream')):>12}"
          + "".join(f"{mib(peers.get(c, 0)):>16}" for c in columns)
          + f"{mib(counted(number, 'peer')):>13}   {len(blobs)} of {len(blobs)} right")
PY
echo
say "done; stopping everything"
