#!/usr/bin/env bash
# The table of schedules: a thousand that are due at the same moment, with real processes of the binary that is shipped. `./check servers` installs MongoDB
# and Redis; the program starts and ends all it needs.
# Usage: bench/schedules.sh [ARGUMENT OF promptmill-bench schedules...]     for example: bench/schedules.sh --only killed
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --profile dist -p promptmill-cli -p promptmill-bench
exec target/dist/promptmill-bench schedules --binary target/dist/promptmill "$@"
