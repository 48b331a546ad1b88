#!/usr/bin/env bash
# The table of a fleet: an api, a worker and a scheduler as cargo builds them, over a real MongoDB and a real Redis, against `promptmill serve`.
# The servers are those that `./check servers` installs; the program starts and ends all it needs.
# Usage: bench/fleet.sh [ARGUMENT OF promptmill-bench fleet...]     for example: bench/fleet.sh --only accept
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --profile dist -p promptmill-cli -p promptmill-bench
exec target/dist/promptmill-bench fleet --binary target/dist/promptmill "$@"
