#!/usr/bin/env bash
# Writes the data of this release, of each kind of store, to cli/tests/golden/VERSION: later releases must open it (cli/tests/it/golden.rs).
# Once for each release; what is there already is what that release wrote, and stays.
# Usage: tools/golden.sh     (./check servers has installed MongoDB and Redis)
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
folder=$PWD/cli/tests/golden/$version
[[ ! -e $folder ]] || {
    printf 'golden.sh: %s is there already\n' "$folder" >&2
    exit 1
}
export PROMPTMILL_TEST_REDIS_SERVER=$PWD/.test-servers/redis-server PROMPTMILL_TEST_MONGOD=$PWD/.test-servers/mongod
PROMPTMILL_GOLDEN=$folder.new cargo test --locked -p promptmill-cli --test it -- \
    --ignored --exact golden::embedded::written golden::fleet::written
mv "$folder.new" "$folder"
du -h "$folder"/*
