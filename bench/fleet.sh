#!/usr/bin/env bash
# The table of a fleet: an api, a worker and a scheduler of the binary that is shipped (deploy/build.sh builds it first), over a real MongoDB and
# a real Redis, against `promptmill serve` of the same binary. `./check servers` installs the servers; the program starts and ends all it needs.
# Usage: bench/fleet.sh [ARGUMENT OF promptmill-bench fleet...]     for example: bench/fleet.sh --only accept
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/build.sh >&2
cargo build --locked --profile dist -p promptmill-bench
exec target/dist/promptmill-bench fleet --binary target/guided/dist/promptmill "$@"
