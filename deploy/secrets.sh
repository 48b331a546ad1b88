#!/usr/bin/env bash
# Makes the secrets of docker-compose.yml, each in a file of its own: the key that encrypts webhook secrets, and the first API key.
# Usage: deploy/secrets.sh [FOLDER]     (default: deploy/secrets; a file that is there stays)
set -euo pipefail
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"

# keep NAME TEXT: into a file that was not there, whole or not at all.
keep() {
    if [[ -s $folder/$1 ]]; then
        printf '%s is there already\n' "$folder/$1"
        return
    fi
    printf '%s\n' "$2" >"$folder/$1.new"
    # A container reads it as another user; the folder is for its owner alone.
    chmod 0444 "$folder/$1.new"
    mv "$folder/$1.new" "$folder/$1"
    printf '%s\n' "$folder/$1"
}

master_key=$(openssl rand -base64 32)
# PROMPTMILL="docker run --rm promptmill" where the program is not installed.
if [[ -x ${PROMPTMILL:-} ]]; then
    api_key=$("$PROMPTMILL" key generate)
else
    # shellcheck disable=SC2086 # several words, as said above
    api_key=$(${PROMPTMILL:-promptmill} key generate)
fi
keep master-key "k1:$master_key"
keep bootstrap-key "$api_key"
