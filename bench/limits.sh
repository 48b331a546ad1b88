#!/usr/bin/env bash
# The table of limits: real processes of the binary that is shipped against a server that limits and counts. `./check servers` installs MongoDB and
# Redis; the program starts and ends all it needs. All of it takes about two hours, because limits are told by the minute.
# Usage: bench/limits.sh [ARGUMENT OF promptmill-bench limits...]     for example: bench/limits.sh --only trouble
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --profile dist -p promptmill-cli -p promptmill-bench
exec target/dist/promptmill-bench limits --binary target/dist/promptmill "$@"
