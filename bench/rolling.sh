#!/usr/bin/env bash
# A restart of one process after the other under load: two apis behind haproxy, two workers, two schedulers, a batch of 6,000 rows, 200 requests a second.
# Prints what was asked, what failed, and which calls were repeated; ends with 1 when anything failed, was lost or was called twice.
# Usage: bench/rolling.sh [REQUESTS A SECOND]     (200)     `./check servers` installs the servers; a program of profile dist is built.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --profile dist -p promptmill-cli
export PROMPTMILL_ROLLING_PROGRAM=$PWD/target/dist/promptmill PROMPTMILL_ROLLING_REQUESTS=${1:-200}
printf 'load average: %s\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --locked -p promptmill-cli --test it -- --nocapture \
    --exact fleet_script::a_restart_of_one_process_after_the_other_fails_no_request_and_repeats_no_call >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    exit 1
}
grep '^|' "$log"
