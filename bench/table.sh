#!/usr/bin/env bash
# The table of every measure of speed, of the binary that is shipped (deploy/build.sh builds it first).
# Usage: bench/table.sh [ARGUMENT OF promptmill-bench table...]     for example: bench/table.sh --only accept
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/build.sh >&2
exec target/guided/dist/promptmill-bench table --binary target/guided/dist/promptmill "$@"
