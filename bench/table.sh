#!/usr/bin/env bash
# The table of every measure of speed: the binary that is shipped (deploy/build.sh builds it first) against the plain bare loop.
# Usage: bench/table.sh [ARGUMENT OF promptmill-bench table...]     for example: bench/table.sh --only accept
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/build.sh >&2
cargo build --locked --profile dist -p promptmill-bench
exec target/dist/promptmill-bench table --binary target/guided/dist/promptmill "$@"
