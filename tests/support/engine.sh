#!/usr/bin/env bash
# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The Docker engine of the tests and its images, made here without any registry.
#
#   engine.sh up             an engine answers (started by us when none did), our images exist
#   engine.sh images         only the images
#   engine.sh sweep          removes the containers, volumes and networks that tests left behind, nothing else
#   engine.sh down           stops the engine, if it was us who started it
#   engine.sh clean          sweep, our images, down, and the engine's own data
#
# Everything it keeps lies in $CLAWMETRY_TEST_CACHE. It never prunes: what is not ours stays.

set -euo pipefail
umask 022

cache=${CLAWMETRY_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/clawmetry-sync-tests}
engine_dir=$cache/engine
label=clawmetry-test
# A recipe that changes gets a new number, so that an old cached image is not used.
sandbox_image=clawmetry-test/sandbox:1
host_image=clawmetry-test/host:1
python_image=clawmetry-test/python-sandbox:1
install_image=clawmetry-test/install # one tag for each distribution
supported=(bookworm trixie noble)
fetching=()
openclaw_image=ghcr.io/nvidia/openshell-community/sandboxes/openclaw:test
cuda_image=nvidia/cuda:test
unset DOCKER_HOST DOCKER_CONTEXT # the tests use this machine's own engine and never a remote one

say() { printf '== %s\n' "$*" >&2; }
die() {
    printf 'engine.sh: %s\n' "$*" >&2
    exit 1
}
answers() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
has_image() { docker image inspect "$1" >/dev/null 2>&1; }

start_engine() {
    if answers; then return; fi
    command -v dockerd >/dev/null || die "no Docker engine answers and dockerd is not installed. Next: scripts/test installs it"
    [ "$(id -u)" = 0 ] || die "no Docker engine answers and only root can start one. Next: sudo scripts/test"
    mkdir -p "$engine_dir"
    say "No Docker engine answers: starting dockerd (log: $engine_dir/dockerd.log)"
    # Its data is apart from /var/lib/docker, so that `clean` can remove it whole.
    # The lock of our caller is closed, or the daemon would hold it for ever; our caller's TMPDIR goes with our caller.
    setsid env -u TMPDIR dockerd --host unix:///var/run/docker.sock --pidfile "$engine_dir/dockerd.pid" --data-root "$engine_dir/data" \
        >"$engine_dir/dockerd.log" 2>&1 </dev/null 9>&- &
    for _ in $(seq 60); do
        if answers; then return; fi
        sleep 1
    done
    tail -n 20 "$engine_dir/dockerd.log" >&2
    die "dockerd did not answer within 60 s"
}

stop_engine() {
    local pid
    pid=$(cat "$engine_dir/dockerd.pid" 2>/dev/null) || return 0
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] || return 0
    say "Stopping the dockerd started by the tests"
    kill "$pid"
    for _ in $(seq 30); do
        [ -d "/proc/$pid" ] || return 0
        sleep 1
    done
    die "dockerd (pid $pid) does not stop"
}

# import_image ROOT IMAGE [dockerfile instruction…]: a root directory becomes an image
import_image() {
    local root=$1 image=$2 change=()
    shift 2
    for instruction in "$@"; do change+=(--change "$instruction"); done
    tar --numeric-owner -C "$root" -c . | docker import "${change[@]}" - "$image" >/dev/null
}

# A few kilobytes of userland: what a test needs to write transcripts and hostile files from inside.
build_sandbox() {
    if has_image "$sandbox_image" && has_image "$openclaw_image" && has_image "$cuda_image"; then return; fi
    local busybox root=$work/sandbox
    busybox=$(command -v busybox) || die "busybox is missing. Next: scripts/test installs busybox-static"
    say "Building $sandbox_image"
    mkdir -p "$root"/{bin,dev,etc,proc,root,run,sandbox,sys,tmp}
    cp "$busybox" "$root/bin/busybox"
    while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/${applet##*/}"
    done < <("$busybox" --list)
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'sandbox:x:998:998::/sandbox:/bin/sh' >"$root/etc/passwd"
    printf '%s\n' 'root:x:0:' 'sandbox:x:998:' >"$root/etc/group"
    chmod 1777 "$root/tmp"
    chown 998:998 "$root/sandbox"
    local idle='CMD ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait; done"]'
    import_image "$root" "$sandbox_image" "$idle" "LABEL $label=image"
    # The label gives each an id of its own, as images of different makers have.
    import_image "$root" "$openclaw_image" "$idle" "LABEL $label=openclaw"
    import_image "$root" "$cuda_image" "$idle" "LABEL $label=cuda"
}

# A sandbox with a Python, for a daemon inside it: the host image's interpreter with what it links to, and busybox.
build_python_sandbox() {
    if has_image "$python_image"; then return; fi
    local root=$work/python busybox
    busybox=$(command -v busybox) || die "busybox is missing. Next: scripts/test installs busybox-static"
    say "Building $python_image"
    mkdir -p "$root"
    docker run --rm --label "$label=1" --network none -i "$host_image" python3 -I - <<'PACK' | tar --numeric-owner -C "$root" -x
import glob, os, subprocess, sys, tarfile

python = os.path.realpath("/usr/bin/python3")
library = "/usr/lib/" + os.path.basename(python)
linked = subprocess.check_output(["ldd", python, *glob.glob(library + "/lib-dynload/*.so")], text=True).split()
wanted = {"/bin", "/lib", "/lib64", "/usr/bin/python3", python, library, "/etc/ld.so.cache"}
for name in "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1":
    linked += glob.glob("/lib/*/" + name)
for word in linked:
    if word.startswith("/") and not word.endswith(":"):
        wanted |= {os.path.join(os.path.realpath(os.path.dirname(word)), os.path.basename(word)), os.path.realpath(word)}
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    for path in sorted(path for path in wanted if os.path.lexists(path)):
        archive.add(path, filter=lambda entry: None if entry.name.endswith(("/__pycache__", "/test")) else entry)
PACK
    cp "$busybox" "$root/usr/bin/busybox"
    for applet in cat chmod chown cp env grep id kill ls mkdir mv ps rm sh sleep stat touch usleep; do ln -s busybox "$root/usr/bin/$applet"; done
    mkdir -p "$root"/{dev,etc,opt/openshell/bin,proc,root,run,sandbox,sys,tmp}
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'sandbox:x:998:998::/sandbox:/bin/sh' >"$root/etc/passwd"
    printf '%s\n' 'root:x:0:' 'sandbox:x:998:' >"$root/etc/group"
    chmod 1777 "$root/tmp"
    chown 998:998 "$root/sandbox"
    # Process 1 has OpenShell's name, and does nothing.
    printf '%s\n' '#!/bin/sh' 'trap exit TERM' 'while :; do sleep 3600 & wait; done' >"$root/opt/openshell/bin/openshell-sandbox"
    chmod 755 "$root/opt/openshell/bin/openshell-sandbox"
    import_image "$root" "$python_image" 'CMD ["/opt/openshell/bin/openshell-sandbox"]' "LABEL $label=python"
}

# default_of RECIPE CODENAME: the mirror that debootstrap itself would take, by its recipe or else by its own default
default_of() {
    # shellcheck disable=SC2016 # for the inner shell
    ARCH=$(dpkg --print-architecture) SUITE=$2 sh -c 'default_mirror() { echo "$1"; exit; }
        for word in mirror_style download_style finddebs_style variants keyring doing_variant; do eval "$word() { exit; }"; done
        . "$1"' sh "/usr/share/debootstrap/scripts/$1" | grep . || sed -n 's/^DEF_MIRROR="\(.*\)"/\1/p' "$(command -v debootstrap)"
}

# archive_of CODENAME: sets mirror, components, keyring and recipe
archive_of() {
    local distribution=$own_id deb=$work/keyring.deb
    case $1 in
    bookworm | trixie) distribution=debian ;;
    noble) distribution=ubuntu ;;
    esac
    components=main recipe=sid
    # Debian's debootstrap may not know this release yet; one recipe does for all of Ubuntu.
    if [ "$distribution" = ubuntu ]; then components=main,universe recipe=gutsy; fi
    # The mirror is whichever this machine is configured to use, or else the distribution's own.
    # shellcheck disable=SC2016 # these are apt's fields, not the shell's
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk -v d="$distribution" -v c="$own" 'tolower($1) == d && $2 == c {print $3; exit}')
    mirror=${mirror:-$(default_of "$recipe" "$1")}
    [ -n "$mirror" ] || die "no mirror known for $1. Next: one for it in the apt sources"
    keyring=/usr/share/keyrings/$distribution-archive-keyring.gpg
    if [ -e "$keyring" ]; then return; fi
    [ "$distribution" = ubuntu ] || die "no $keyring. Next: apt-get install debian-archive-keyring"
    # Debian has no package of Ubuntu's keys. They come from where they sign the packages, and are known by their hash.
    wget -q -O "$deb" "$mirror/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb" ||
        die "no keys of Ubuntu from $mirror. Next: the network, or a keyring as $keyring"
    echo "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8  $deb" | sha256sum --check --quiet >&2 ||
        die "the keys that $mirror gave are not those of Ubuntu, and are not used"
    dpkg-deb --extract "$deb" "$work/keys"
    keyring=$work/keys$keyring
}

# bootstrap CODENAME PACKAGES ARCHIVE: a distribution with systemd as a tar file, kept for next time
bootstrap() {
    local codename=$1 packages=$2 archive=$3 root=$work/$1 mirror components keyring recipe unit
    if [ -s "$archive" ]; then return; fi
    archive_of "$codename"
    say "Fetching $codename, two or three minutes"
    # Python's own settings would lead the packages' byte code to a directory of ours in there.
    env -u PYTHONPYCACHEPREFIX debootstrap --variant=minbase --keyring="$keyring" --components="$components" \
        --include="systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,iproute2,procps,$packages" \
        "$codename" "$root" "$mirror" "/usr/share/debootstrap/scripts/$recipe" >"$cache/debootstrap-$codename.log" 2>&1 </dev/null ||
        die "debootstrap failed. Next: tail $cache/debootstrap-$codename.log"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
    : >"$root/etc/machine-id"
    for unit in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-timesyncd.service \
        systemd-resolved.service systemd-networkd.service getty@tty1.service console-getty.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    tar --numeric-owner -C "$root" -cf "$archive.new" .
    mv "$archive.new" "$archive"
    rm -rf --one-file-system "$root"
}

# The distributions that are missing, side by side: each waits for its mirror and for dpkg most of the time.
fetch() {
    local codename job extra=
    if ! has_image "$host_image"; then
        # Newer releases ship the client on its own.
        if apt-cache show docker-cli >/dev/null 2>&1; then extra=,docker-cli; fi
        bootstrap "$own" "iptables,docker.io$extra" "$cache/host.tar" &
        fetching+=($!)
    fi
    for codename in "${supported[@]}"; do
        if [ "$codename" = "$own" ] || has_image "$install_image:$codename"; then continue; fi
        bootstrap "$codename" sudo "$cache/install-$codename.tar" &
        fetching+=($!)
    done
    for job in "${fetching[@]}"; do wait "$job" || exit; done
    fetching=()
}

import_host() {
    docker import --change 'CMD ["/lib/systemd/systemd"]' --change 'ENV container=docker' --change "LABEL $label=host" "$1" "$2" >/dev/null
}

# The machine's own distribution with systemd and a Docker engine: a host to install the daemon on.
build_host() {
    if has_image "$host_image"; then return; fi
    say "Building $host_image"
    import_host "$cache/host.tar" "$host_image"
}

# Hosts with sudo and no engine, for scripts/install.sh: the machine's own distribution, and the others that are supported.
build_install() {
    local id codename
    if ! has_image "$install_image:$own"; then
        say "Building $install_image:$own"
        mkdir -p "$work/sudo"
        (cd "$work/sudo" && apt-get -qq -o APT::Sandbox::User=root download sudo)
        id=$(docker create --label "$label=1" --network none "$host_image" sh -c \
            'dpkg -i /tmp/sudo_*.deb && rm /tmp/sudo_*.deb && systemctl --quiet disable docker.service docker.socket containerd.service')
        docker cp -q "$work"/sudo/sudo_*.deb "$id:/tmp/"
        docker start -a "$id" >/dev/null 2>"$work/sudo/log" || die "no sudo in $install_image:$own: $(cat "$work/sudo/log")"
        docker commit --change 'CMD ["/lib/systemd/systemd"]' --change "LABEL $label=install" "$id" "$install_image:$own" >/dev/null
        docker rm -v "$id" >/dev/null
    fi
    for codename in "${supported[@]}"; do
        if has_image "$install_image:$codename"; then continue; fi
        say "Building $install_image:$codename"
        import_host "$cache/install-$codename.tar" "$install_image:$codename"
    done
}

# The label tells the process of the run it belongs to, 1 for a pytest started by hand. Runs may go on side by side:
# swept is what is our own, and what is of a run that is over; "all" is everything.
over() {
    local id run
    while read -r id run; do
        if [ "$1" = all ] || [ "$run" = "${CLAWMETRY_TEST_RUN-}" ] || [ ! -d "/proc/$run" ]; then echo "$id"; fi
    done
}

sweep() {
    answers || return 0
    local ids
    mapfile -t ids < <(docker ps -a --filter "label=$label" --format "{{.ID}} {{.Label \"$label\"}}" | over "${1-}")
    [ ${#ids[@]} = 0 ] || docker rm -f -v "${ids[@]}" >/dev/null
    mapfile -t ids < <(docker volume ls --filter "label=$label" --format "{{.Name}} {{.Label \"$label\"}}" | over "${1-}")
    [ ${#ids[@]} = 0 ] || docker volume rm "${ids[@]}" >/dev/null
    mapfile -t ids < <(docker network ls --filter "label=$label" --format "{{.ID}} {{.Label \"$label\"}}" | over "${1-}")
    [ ${#ids[@]} = 0 ] || docker network rm "${ids[@]}" >/dev/null
}

images() {
    mkdir -p "$cache/tmp"
    work=$(mktemp -d "$cache/tmp/images.XXXXXX")
    trap 'kill "${fetching[@]}" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
    build_sandbox
    # shellcheck disable=SC1091
    own_id=$(. /etc/os-release && echo "$ID") own=$(. /etc/os-release && echo "$VERSION_CODENAME")
    fetch
    build_host
    build_python_sandbox
    build_install
}

mkdir -p "$cache"
exec 9>"$cache/engine.lock"
flock 9
case ${1-} in
up)
    start_engine
    images
    ;;
images) images ;;
sweep) sweep ;;
down) stop_engine ;;
clean)
    sweep all
    if answers; then docker rmi -f "$openclaw_image" "$cuda_image" "$sandbox_image" "$python_image" "$host_image" \
        "$install_image:bookworm" "$install_image:trixie" "$install_image:noble" >/dev/null 2>&1 || true; fi
    stop_engine
    # A dockerd that was killed leaves its data mounted on itself, and the next one does not unmount what it found.
    awk -v place="$engine_dir/" 'index($2, place) == 1 { print $2 }' /proc/self/mounts | sort -r | xargs -r umount -l
    rm -rf --one-file-system "$engine_dir" "$cache"/{host,install-bookworm,install-trixie,install-noble}.tar "$cache/tmp"
    ;;
*) die "usage: engine.sh up|images|sweep|down|clean" ;;
esac
