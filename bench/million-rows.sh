#!/usr/bin/env bash
# Peak memory and rate of `promptmill run` for a million rows against ten rows: memory must not grow with the rows.
# Usage: bench/million-rows.sh [ROWS]     (default 1000000; builds the binary in profile dist first)
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${1:-1000000}
cargo build --profile dist --quiet -p promptmill-cli
binary=$PWD/target/dist/promptmill
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/template.json" <<'T'
{"name": "million", "messages": [{"role": "user", "content": "Say something about number {{ n }} in the {{ tone }} tone."}],
 "variables": {"n": {"type": "integer"}, "tone": {"enum": ["dry", "warm"], "type": "string", "default": "dry"}},
 "output": {"format": "json", "schema": {"type": "object", "required": ["text", "score"], "additionalProperties": false,
   "properties": {"text": {"type": "string", "maxLength": 80}, "score": {"type": "integer", "minimum": 0, "maximum": 9}}}}}
T

# Prints "PEAK_KIB SECONDS CPU_SECONDS".
measure() {
  seq 0 $(($1 - 1)) | sed 's/.*/{"n": &}/' > "$work/rows.jsonl"
  rm -rf "$work/out.jsonl" "$work/state"
  "$(command -v python3)" - "$binary" "$work" <<'P'
import os, resource, subprocess, sys, time
binary, work = sys.argv[1:]
began = time.monotonic()
subprocess.run([binary, "run", f"{work}/template.json", "--rows", f"{work}/rows.jsonl", "--model", "demo:any",
                "--out", f"{work}/out.jsonl", "--state", f"{work}/state", "--concurrency", "64", "--quiet"], check=True)
took = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, round(took, 1), round(used.ru_utime + used.ru_stime, 1))
P
}

read -r idle _ _ < <(measure 10)
read -r peak took cpu < <(measure "$rows")
lines=$(wc -l < "$work/out.jsonl")
[ "$lines" -eq "$rows" ] || { echo "$lines outcomes for $rows rows" >&2; exit 1; }
printf 'load average: %s\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
printf '%-28s %s\n' "peak memory, 10 rows" "$((idle / 1024)) MiB" "peak memory, $rows rows" "$((peak / 1024)) MiB" \
  "above idle (limit 64 MiB)" "$(((peak - idle) / 1024)) MiB" "rows per second" "$(awk "BEGIN {printf \"%.0f\", $rows / $took}")" \
  "CPU s per 1,000 rows" "$(awk "BEGIN {printf \"%.4f\", $cpu * 1000 / $rows}")" "database" "$(du -m "$work/state" | cut -f1) MiB"
[ $(((peak - idle) / 1024)) -le 64 ] || { echo "over the limit" >&2; exit 1; }
