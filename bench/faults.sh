#!/usr/bin/env bash
# The faults of docs/faults.md that concern one process, made on purpose around the real binary and judged by the checker: prints the table.
# Those of a fleet are made by ./chaos.
#
#   bench/faults.sh              every fault, as ./check runs it
#   bench/faults.sh --million    the rows that are bombs among a million good ones, with and without them; about twenty minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == --million ]]; then
    echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"
    PROMPTMILL_POISON_ROWS=${2:-1000000} cargo test --locked -p promptmill-cli --test it -- \
        --nocapture chaos::poison::rows_that_are_bombs_fail_alone_among_very_many | grep '^poison:'
    exit
fi
table=$(mktemp)
trap 'rm -f "$table"' EXIT
echo "load average: $(cut -d' ' -f1-3 /proc/loadavg)"
PROMPTMILL_FAULT_TABLE=$table cargo test --locked -p promptmill-cli --test it -- --test-threads=1 \
    --skip ::fleet:: checker:: chaos::
printf '\n| %s |\n|%s\n' \
    "fault | seed | acked | recovered | lost | unexpected | duplicated | changed | partial | extra calls | late calls | recovery s | peak MiB" \
    "---|---|---|---|---|---|---|---|---|---|---|---|---|"
cat "$table"
