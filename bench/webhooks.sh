#!/usr/bin/env bash
# The table of webhooks: real processes of the binary that is shipped, and receivers some of which never answer. `./check servers` installs MongoDB and Redis;
# the program starts and ends all it needs.
# Usage: bench/webhooks.sh [ARGUMENT OF promptmill-bench webhooks...]     for example: bench/webhooks.sh --only many
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --profile dist -p promptmill-cli -p promptmill-bench
exec target/dist/promptmill-bench webhooks --binary target/dist/promptmill "$@"
