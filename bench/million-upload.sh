#!/usr/bin/env bash
# A million rows over HTTP: upload, submit, work, results, each with its time and the server's memory over that time.
# Usage: bench/million-upload.sh [ROWS]     (default 1000000; builds the binary in profile dist first)
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${1:-1000000}
cargo build --profile dist --quiet -p promptmill-cli
binary=$PWD/target/dist/promptmill
work=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

"$(command -v python3)" - "$rows" > "$work/rows.jsonl" <<'P'
import json, sys
filler = "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs; how vexingly quick "
for n in range(int(sys.argv[1])):
    print(json.dumps({"custom_id": f"row-{n:08d}", "variables": {"n": n, "note": filler + str(n * 2654435761 % 2**32)}}))
P
"$binary" serve --data "$work/data" --listen 127.0.0.1:18080 --metrics-listen 127.0.0.1:19464 --concurrency 64 \
  > "$work/key" 2> "$work/log" &
server=$!
until curl -fs -o /dev/null http://127.0.0.1:18080/readyz; do sleep 0.05; done

"$(command -v python3)" - "$server" "$rows" "$work" <<'P'
import json, os, sys, threading, time, urllib.request

pid, rows, work = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
key = open(f"{work}/key").read().strip()
url = "http://127.0.0.1:18080"

def ask(method, path, body=None, kind="application/json"):
    request = urllib.request.Request(url + path, data=body, method=method, headers={"Authorization": f"Bearer {key}"})
    if body is not None:
        request.add_header("Content-Type", kind)
    return urllib.request.urlopen(request)

def resident_mib():
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 2**20

def cpu_seconds():
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

samples, phase, done = [], "idle", False

def watch():
    began = time.monotonic()
    while not done:
        samples.append((phase, time.monotonic() - began, resident_mib()))
        time.sleep(0.1)

watcher = threading.Thread(target=watch)
watcher.start()
time.sleep(1)
figures = []

def timed(name, work_on):
    global phase
    phase = name
    began, cpu = time.monotonic(), cpu_seconds()
    answer = work_on()
    took = time.monotonic() - began
    curve = [memory for at, _, memory in samples if at == name] or [resident_mib()]
    tenths = [max(curve[i * len(curve) // 10 : (i + 1) * len(curve) // 10 + 1]) for i in range(10)]
    figures.append((name, took, rows / took, cpu_seconds() - cpu, max(curve), tenths))
    return answer

template = {"name": "million", "messages": [{"role": "user", "content": "Say something about number {{ n }}. {{ note }}"}],
            "variables": {"n": {"type": "integer"}, "note": {"type": "string"}},
            "output": {"format": "json", "schema": {"type": "object", "required": ["text", "score"], "additionalProperties": False,
                       "properties": {"text": {"type": "string", "maxLength": 80}, "score": {"type": "integer", "minimum": 0, "maximum": 9}}}}}
batch = json.load(ask("POST", "/v1/batches", json.dumps({"template": template, "model": "demo:any"}).encode()))["id"]
# curl streams the file; a body read by Python would cost Python's memory and time.
status = timed("upload", lambda: os.system(
    f"curl -fsS -o {work}/part.json -X PUT {url}/v1/batches/{batch}/rows/0 -H 'Authorization: Bearer {key}' "
    f"-H 'Content-Type: application/x-ndjson' -T {work}/rows.jsonl"))
assert status == 0, open(f"{work}/log").read()
timed("submit", lambda: ask("POST", f"/v1/batches/{batch}/submit").read())

def until_done():
    while True:
        view = json.load(ask("GET", f"/v1/batches/{batch}"))
        if view["state"] == "completed":
            return view
        time.sleep(0.2)

view = timed("work", until_done)
assert view["counts"]["succeeded"] == rows, view
status = timed("results", lambda: os.system(
    f"curl -fsS -o {work}/out.jsonl '{url}/v1/batches/{batch}/results?end=true' -H 'Authorization: Bearer {key}'"))
assert status == 0
lines = sum(1 for _ in open(f"{work}/out.jsonl"))
assert lines == rows + 1, lines
done = True
watcher.join()
idle = max(memory for at, _, memory in samples if at == "idle")
print("load average:", open("/proc/loadavg").read().rsplit(" ", 2)[0])
print(f"idle memory: {idle:.0f} MiB; rows: {rows}, {os.path.getsize(f'{work}/rows.jsonl') // rows} bytes each")
print(f"{'step':8} {'seconds':>8} {'rows/s':>9} {'CPU s':>7} {'peak MiB':>9}  memory over the step, MiB (tenths of its time)")
for name, took, rate, cpu, peak, tenths in figures:
    print(f"{name:8} {took:8.1f} {rate:9.0f} {cpu:7.1f} {peak:9.0f}  {' '.join(f'{memory:.0f}' for memory in tenths)}")
P
