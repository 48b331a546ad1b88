#!/usr/bin/env bash
# Builds what is shipped: profile dist, the compiler guided by a profile of the program at work.
# Usage: deploy/build.sh     (result: target/guided/dist/promptmill, and promptmill-bench beside it, built the same way)
#
# The profile comes from the benchmark on the spot: every part of it in small, then the long ones; those of a fleet too where ./check servers has
# installed its servers. Needs rustup's component llvm-tools.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools

# build FLAG NAME: into target/NAME. The flags name fixed files, so that what has not changed is not built again. Both programs each time: a
# crate that one of them alone needs with fewer features would not be the one that the profile is of.
build() {
  RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --locked --profile dist -p promptmill-cli -p promptmill-bench --target-dir "target/$2"
}

build "-Cprofile-generate=$PWD/target/learning/raw" learning
learning=target/learning/dist
profile=$PWD/target/learning/profile
# learn TABLE ARGUMENT...: a part of the benchmark. Counting makes it slow, so a measure beyond its limit is no failure here; no table is one.
learn() {
  local table
  table=$("$learning/promptmill-bench" "$1" --binary "$learning/promptmill" "${@:2}") || [[ $table == *'| measure'* ]]
}

fleet=.test-servers/mongod
if [ ! "$profile" -nt "$learning/promptmill" ] || [ "$fleet" -nt "$profile" ]; then
  rm -rf target/learning/raw
  learn table --quick
  for part in throughput accept results; do
    learn table --only $part --runs 1
  done
  if [ -x "$fleet" ]; then
    for part in throughput lone waiting accept; do
      learn fleet --only $part --runs 1
    done
  fi
  "$profdata" merge -o "$profile" target/learning/raw/*.profraw
fi
build "-Cprofile-use=$profile" guided
