#!/usr/bin/env bash
# Does what `docker build -f deploy/Dockerfile .` does, line by line in clean roots, where no container engine runs; then starts the image as it would
# be started: as its user, on a root that cannot be written, until its health check is content.
# Usage: deploy/replay.sh FOLDER [MIRROR]     (as root; makes FOLDER/build and FOLDER/image; MIRROR is where debootstrap finds Debian)
#
# The image that the build begins from is not pulled: it is Debian of the same name by debootstrap, with a C compiler, and the Rust of this machine's rustup.
set -euo pipefail
folder=${1:?"usage: deploy/replay.sh FOLDER [MIRROR]"} mirror=${2:-}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd) program=$(realpath "$0")
cd "$(dirname "$program")/.."

give_up() {
    printf 'replay.sh: %s\n' "$*" >&2
    exit 1
}
((EUID == 0)) || give_up "only root can make a root"
command -v debootstrap >/dev/null || give_up "there is no debootstrap"
# Mounts of ours are nobody else's, and end with this process.
[[ -n ${REPLAY_APART:-} ]] || REPLAY_APART=1 exec unshare --mount --fork "$program" "$folder" ${mirror:+"$mirror"}

stage= root= workdir=/ user=0:0
declare -A environment=()
entrypoint=() command=() health=()

# enter COMMAND...: becomes the command in the root of this stage, in its folder and environment, as its user.
enter() {
    local -a env=(HOME=/root)
    local name
    for name in "${!environment[@]}"; do env+=("$name=${environment[$name]}"); done
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do [[ -z ${!name:-} ]] || env+=("$name=${!name}"); done
    exec env -i "${env[@]}" python3 -c 'import os, sys
root, folder, user, *command = sys.argv[1:]
os.chroot(root)
os.chdir(folder)
os.setgroups([])
os.setgid(int(user.rpartition(":")[2]))
os.setuid(int(user.partition(":")[0]))
os.execvp(command[0], command)' "$root" "$workdir" "$user" "$@"
}
in_root() (enter "$@")

# lay_over FOLDER TARGET: the folder as it is at TARGET, where what is written to it is kept beside and never reaches it.
lay_over() {
    local beside=$folder/beside/${2##*/}
    rm -rf "$beside"
    mkdir -p "$beside/upper" "$beside/work" "$2"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$beside/upper,workdir=$beside/work" "$2"
}

from() {
    local base=$1
    stage=${3:-image} root=$folder/${3:-image} workdir=/ user=0:0
    environment=()
    rm -rf --one-file-system "$root"
    if [[ $base == scratch ]]; then
        mkdir "$root"
        return
    fi
    [[ $base =~ ^rust:([0-9.]+)-([a-z]+)$ ]] || give_up "$base is not known here"
    local rust=${BASH_REMATCH[1]} debian=${BASH_REMATCH[2]}
    [[ $(rustc -V) == "rustc $rust "* ]] || give_up "the image has Rust $rust, this machine $(rustc -V)"
    debootstrap --variant=minbase --include=ca-certificates,gcc,g++,libc6-dev,make,patch "$debian" "$root" ${mirror:+"$mirror"} >"$folder/debootstrap.log"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    mount --bind /proc "$root/proc"
    mount --bind /dev "$root/dev"
    lay_over "${RUSTUP_HOME:-$HOME/.rustup}" "$root/usr/local/rustup"
    lay_over "${CARGO_HOME:-$HOME/.cargo}" "$root/usr/local/cargo"
    # Of whatever name it is here, there it has that of the image.
    local toolchain=$root/usr/local/rustup/toolchains/$rust-$(rustc -vV | sed -n 's/^host: //p')
    rm -rf "$toolchain"
    lay_over "$(rustc --print sysroot)" "$toolchain"
    environment=([RUSTUP_HOME]=/usr/local/rustup [CARGO_HOME]=/usr/local/cargo [RUST_VERSION]=$rust
        [PATH]=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
}

copy() {
    local from='' owner=0:0
    while [[ $1 == --* ]]; do
        case $1 in
        --from=*) from=$folder/${1#*=} ;;
        --chown=*) owner=${1#*=} ;;
        *) give_up "COPY $1 is not known here" ;;
        esac
        shift
    done
    local target=$2
    [[ $target == /* ]] || target=$workdir/$target
    if [[ -z $from ]]; then
        [[ $1 == . ]] || give_up "COPY of a part is not known here"
        mkdir -p "$root/$target"
        tar -c --exclude-from=<(sed '/^#/d; /^$/d; s|^\*\*/||; s|^[^*]|./&|' .dockerignore) . | tar -x --no-same-owner -C "$root/$target"
        return
    fi
    mkdir -p "$root/$(dirname "$target")"
    cp -aT "$from/$1" "$root/$target"
    # What a link names belongs to the image, too.
    [[ ! -L $root/$target ]] || cp --remove-destination -L "$from/$1" "$root/$target"
    chown -R "$owner" "$root/$target"
}

# words JSON: a list of the Dockerfile, a word a line.
words() { python3 -c 'import json, sys; print(*json.loads(sys.argv[1]), sep="\n")' "$1"; }

# Lines that end in a backslash go on.
while IFS= read -r line; do
    read -r instruction rest <<<"$line"
    printf '==> %s\n' "$line"
    case $instruction in
    FROM) from $rest </dev/null ;;
    WORKDIR) workdir=$rest && mkdir -p "$root/$rest" ;;
    COPY) copy $rest ;;
    RUN) in_root /bin/bash -ec "$rest" </dev/null ;;
    ENV) for pair in $rest; do environment[${pair%%=*}]=${pair#*=}; done ;;
    USER) user=$rest ;;
    ENTRYPOINT) mapfile -t entrypoint < <(words "$rest") ;;
    CMD) mapfile -t command < <(words "$rest") ;;
    HEALTHCHECK) mapfile -t health < <(words "${rest#*CMD }") ;;
    VOLUME) volume=$rest ;;
    EXPOSE) ;;
    *) give_up "$instruction is not known here" ;;
    esac
done < <(sed -e '/^#/d' -e ':a;/\\$/{N;s/\\\n *//;ba}' deploy/Dockerfile | sed '/^$/d')

printf '\nthe image is %s\n' "$(du -sh "$root" | cut -f1)"
mount --bind "$root" "$root"
mkdir -p "$folder/volume"
chown "$(stat -c %u:%g "$root$volume")" "$folder/volume"
mount --bind "$folder/volume" "$root$volume"
mount -o remount,bind,ro "$root"
enter "${entrypoint[@]}" "${command[@]}" >"$folder/image.log" 2>&1 &
served=$!
for _ in {1..100}; do
    ! in_root "${health[@]}" 2>/dev/null || break
    sleep 0.2
done
in_root "${health[@]}" || { cat "$folder/image.log" >&2 && give_up "the program of the image does not live"; }
[[ $(awk '/^[UG]id:/ { printf "%s%s", sep, $2; sep = ":" }' "/proc/$served/status") == "$user" ]] || give_up "the program does not run as $user"
kill -TERM "$served"
wait "$served"
printf 'its program lives as %s on a root that cannot be written, and ends in order\n' "$user"
