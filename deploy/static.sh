#!/usr/bin/env bash
# Builds one program that needs nothing of the system it runs on: profile dist, linked with musl.
# Usage: deploy/static.sh [FOLDER]     (the program is put into FOLDER; default: target/static)
#
# Needs musl-gcc (Debian: musl-tools) and rustup, for the target.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(uname -m)-unknown-linux-musl
into=${1:-target/static}
command -v musl-gcc >/dev/null || {
    printf 'static.sh: there is no musl-gcc; install musl-tools\n' >&2
    exit 2
}
rustup target add "$target"
CC=musl-gcc cargo build --locked --profile dist --target "$target" -p promptmill-cli
mkdir -p "$into"
# Its symbols stay beside it in target/.
strip -o "$into/promptmill" "target/$target/dist/promptmill"
if ldd "$into/promptmill" 2>/dev/null | grep -q '=>'; then
    printf 'static.sh: the program asks for libraries of the system\n' >&2
    exit 1
fi
