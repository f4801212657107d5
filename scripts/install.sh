#!/bin/sh
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Installs, upgrades or removes the sync daemon on this one host, for people who do not know Ansible.
# From a checkout or an unpacked collection. docs/install.md tells more.
#
# Secrets stay in their files: only paths are passed on. Exit codes: 0 done, 1 failed, 2 refused before the first change.
set -eu
umask 022

usage() {
  cat <<'TEXT'
usage: install.sh [OPTION]...

Installs the ClawMetry sync daemon on this host, or upgrades it to what this
checkout carries. Safe to run again.

  --api-key-file FILE         send to ClawMetry, with the API key in FILE
  --encryption-key-file FILE  seal with the key in FILE
                              without both, an encrypted archive is kept on this
                              host, and its key is made here
  --mode host|sandbox         where the daemon runs (host); sandbox puts one into
                              each sandbox of this host, which is second best
  --sandbox NAME              with --mode sandbox: this one only; may be repeated
  --dry-run                   show what would change, and change nothing
  --yes                       do not ask
  --offline DIR               take the packages from DIR, use no network
  --make-offline DIR          only fill DIR, on a machine with a network
  --uninstall                 remove it; configuration, keys and archive stay
  --purge                     with --uninstall: those go as well
  --verbose                   show all that Ansible says
  --help                      this text
TEXT
}

say() { printf '\n== %s\n' "$*"; }
# refuse WHAT NEXT: nothing was changed
refuse() {
  printf 'install.sh: %s. Next: %s\n' "$1" "$2" >&2
  exit 2
}
fail() {
  printf 'install.sh: %s. Next: %s\n' "$1" "$2" >&2
  exit 1
}

# -- what was asked for -------------------------------------------------------------------------

api_key='' encryption_key='' mode='' sandboxes='' wheels='' fill=''
dry_run=no yes=no uninstall=no purge=no verbose=no keys_given=no

while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --api-key-file=* | --encryption-key-file=* | --mode=* | --sandbox=* | --offline=* | --make-offline=*)
    set -- "${option#*=}" "$@"
    option=${option%%=*}
    ;;
  esac
  case $option in
  --api-key-file | --encryption-key-file | --mode | --sandbox | --offline | --make-offline)
    [ -n "${1-}" ] || refuse "$option wants a value" "scripts/install.sh --help"
    case $option in
    --api-key-file) api_key=$1 keys_given=yes ;;
    --encryption-key-file) encryption_key=$1 keys_given=yes ;;
    --mode) mode=$1 ;;
    --sandbox)
      sandboxes="$sandboxes$1
"
      ;;
    --offline) wheels=$1 ;;
    --make-offline) fill=$1 ;;
    esac
    shift
    ;;
  --dry-run) dry_run=yes ;;
  --yes | -y) yes=yes ;;
  --uninstall) uninstall=yes ;;
  --purge) purge=yes ;;
  --verbose | -v) verbose=yes ;;
  --help | -h)
    usage
    exit 0
    ;;
  # Never the value: it may be the secret itself.
  *) refuse "unknown option $(printf '%.40s' "${option%%=*}" | tr -cd '[:alnum:]-')" "scripts/install.sh --help" ;;
  esac
done

case $mode in
'' | host | sandbox) ;;
*) refuse "--mode is host or sandbox" "scripts/install.sh --help" ;;
esac
[ $purge = no ] || [ $uninstall = yes ] || refuse "--purge goes with --uninstall only" "scripts/install.sh --uninstall --purge"
[ $uninstall = no ] || [ $keys_given = no ] || refuse "--uninstall takes no keys" "scripts/install.sh --uninstall"
[ -z "$sandboxes" ] || [ "$mode" = sandbox ] || refuse "--sandbox goes with --mode sandbox" "scripts/install.sh --mode sandbox --sandbox NAME"
[ $purge = no ] || [ "$mode" != sandbox ] || refuse "nothing is kept in a sandbox, so there is nothing to purge" "leave --purge out"
[ -z "$fill" ] || [ "$keys_given$mode$wheels$dry_run$uninstall" = nonono ] ||
  refuse "--make-offline only fills a directory and goes with no other option" "scripts/install.sh --make-offline DIR"

# -- where we are -------------------------------------------------------------------------------

script=$0
[ ! -h "$script" ] || script=$(readlink -f -- "$script")
here=$(cd -- "$(dirname -- "$script")/.." && pwd -P)
for file in playbooks/site.yml requirements/quickstart.txt roles/daemon/files/requirements.txt; do
  [ -f "$here/$file" ] || refuse "$here has no $file" "run it from a whole checkout, or from the unpacked collection"
done

uid=$(id -u)
: "${HOME:=/}" # a bare environment has none
system=$(uname -s)
case $system in
Linux) ;;
Darwin) [ "$uid" -ne 0 ] || refuse "on macOS the daemon belongs to the user whose agents it syncs, not to root" "run it as that user" ;;
*) refuse "this is $system, and the daemon runs on Linux and macOS" "install it on a Linux host" ;;
esac

# The one Python for the controller and the daemon: 3.11 to 3.13 (ansible-core 2.19), the system's own first.
suits() { "$1" -IBc 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
python=''
for name in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 python3.13 python3.12 python3.11 python3; do
  if found=$(command -v "$name") && suits "$found"; then
    python=$found
    break
  fi
done
if [ -z "$python" ]; then
  if command -v apt-get >/dev/null; then
    next="apt-get install python3 python3-venv"
  else
    next="install Python 3.11, 3.12 or 3.13"
  fi
  refuse "no Python 3.11 to 3.13 that can make a virtual environment" "$next"
fi
version=$("$python" -IBc 'import sys; print("%d.%d" % sys.version_info[:2])')

work=$(mktemp -d "${TMPDIR:-/tmp}/clawmetry-install.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
chmod 0700 "$work"

# -- packages -----------------------------------------------------------------------------------

# Wheels only, each checked by its hash, into an environment of our own.
pip() { "$venv/bin/python" -IBm pip "$@"; }
pinned() {
  verb=$1 list=$2
  shift 2
  pip "$verb" --quiet --no-input --no-cache-dir --disable-pip-version-check --require-hashes --only-binary=:all: --requirement "$here/$list" "$@"
}
new_venv() { "$python" -IBm venv "$venv" || fail "$python cannot make a virtual environment" "apt-get install python3-venv, or its like"; }

if [ -n "$fill" ]; then
  venv=$work/venv
  new_venv
  mkdir -p -- "$fill"
  for list in requirements/quickstart.txt roles/daemon/files/requirements.txt; do
    pinned download "$list" --dest "$fill" || fail "the packages did not arrive" "see pip's message above; it takes its proxy from HTTPS_PROXY"
  done
  say "$fill holds the packages for Python ${PIP_PYTHON_VERSION:-$version}, $(uname -m)"
  echo "  scripts/install.sh --offline DIR     on a host with the same Python"
  exit 0
fi

if [ -n "$wheels" ]; then
  [ -d "$wheels" ] || refuse "--offline wants a directory of packages" "scripts/install.sh --make-offline DIR, on a machine with a network"
  wheels=$(cd -- "$wheels" && pwd -P)
  # pip's configuration would take it for two.
  case $wheels in *[[:space:]]*) refuse "the path of the packages has a space in it" "use another directory" ;; esac
fi

# -- secrets ------------------------------------------------------------------------------------

# private OPTION FILE: prints its full path; a secret is a plain file that nobody but its owner may open
private() {
  if [ -h "$2" ] || [ ! -f "$2" ]; then refuse "$1 wants a file, and there is none of this name, or a link" "put the key into a file with mode 0600"; fi
  case $2 in *[[:cntrl:]]*) refuse "$1: a strange name for a file" "rename it" ;; esac
  # shellcheck disable=SC2012 # of one file: mode, links, owner, group, size
  ls -ldn -- "$2" | {
    read -r bits _ owner _ size _
    case $bits in
    -???------*) ;;
    *) refuse "$1: others than its owner may open the file ($bits)" "chmod 0600 it; if others could read it, have a new key made" ;;
    esac
    case $owner in
    0 | "$uid") ;;
    *)
      [ "$uid-$owner" = "0-${SUDO_UID:-}" ] ||
        refuse "$1: the file belongs to uid $owner" "chown it to $(id -un), or to root"
      ;;
    esac
    [ "$size" -gt 0 ] && [ "$size" -le 4096 ] || refuse "$1: the file has $size bytes, which is no key" "put the key into it, on one line"
  } || exit
  printf '%s/%s\n' "$(cd -- "$(dirname -- "$2")" && pwd -P)" "$(basename -- "$2")"
}

[ -z "$api_key" ] || api_key=$(private --api-key-file "$api_key")
[ -z "$encryption_key" ] || encryption_key=$(private --encryption-key-file "$encryption_key")
# What is installed may have the other key already; the role looks at that as root.
if [ -n "$api_key" ] && [ -z "$encryption_key" ] && [ ! -d /etc/clawmetry ] && [ ! -d "$HOME/.config/clawmetry" ]; then
  refuse "--api-key-file goes with --encryption-key-file: nothing leaves this host unsealed" \
    "(umask 077; head -c 32 /dev/urandom | base64 | tr +/ -_ >encryption_key), keep a copy, and name it"
fi

# -- what is here -------------------------------------------------------------------------------

# Reads only; as far as this user can see. Words for the shell on the first line, then text for people.
echo '{}' >"$work/defaults.json"
"$python" -IBc '
import importlib.util, sys

engine, config = sys.argv[1:]
spec = importlib.util.spec_from_file_location("clawmetry_sync", engine + "/__init__.py", submodule_search_locations=[engine])
sys.modules["clawmetry_sync"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from clawmetry_sync import api

facts = api.snapshot(config_path=config, timeout_s=30.0)
print(facts["deployment"]["mode"])
for name, runtime in facts["runtimes"].items():
    if runtime["present"]:
        print("  found      %s%s" % (name, ascii(" " + runtime["version"])[1:-1] if runtime["version"] else ""))
    elif runtime["present"] is None:
        print("  unclear    %s: %s" % (name, ascii("; ".join(runtime["evidence"]))[1:-1][:150]))
names = [ascii(box["name"])[1:-1][:60] for box in facts["sandboxes"]]
print("  sandboxes  %s%s" % (len(names) or "none that this user can see", (": " + ", ".join(names[:10])) if names else ""))
' "$here/plugins/module_utils" "$work/defaults.json" >"$work/here" 2>"$work/trouble" ||
  printf 'unknown\n  unclear    could not look: %s\n' "$(tail -n 1 "$work/trouble")" >"$work/here"
read -r place <"$work/here"

why="from outside it reads every sandbox of the host with one daemon, the agents can neither
             stop nor change it nor see its keys, and no sandbox needs a rule for the network"
if [ "$place" = sandbox ]; then
  refuse "this is the inside of a sandbox, and the daemon belongs on its host: $why. --mode sandbox is worked from there too" \
    "run scripts/install.sh on the host"
fi
if [ "$mode" = sandbox ]; then
  [ "$system" = Linux ] || refuse "containers live in a virtual machine on macOS, out of reach of --mode sandbox" "leave --mode out"
  set -- /etc/systemd/system/clawmetry-sandbox@*.service
  if [ $uninstall = no ] && [ ! -e "$1" ] && { [ -z "$api_key" ] || [ -z "$encryption_key" ]; }; then
    refuse "a daemon in a sandbox ships to an ingest, and needs both keys. The host is the better place: $why" \
      "scripts/install.sh --mode sandbox --api-key-file FILE --encryption-key-file FILE"
  fi
  command -v docker >/dev/null ||
    refuse "--mode sandbox runs the daemon with the command docker, and there is none. The host is the better place: $why" \
      "scripts/install.sh --mode host"
fi

# The role looks at this again; here it is said before anything is made.
command=/usr/local/bin/clawmetry
[ "$system" != Darwin ] || command=$HOME/.local/bin/clawmetry
if [ $uninstall = no ] && [ "$mode" != sandbox ] && { [ -e "$command" ] || [ -h "$command" ]; } &&
  ! grep -qsF 'Written by the role clawmetry.sync.daemon' "$command"; then
  refuse "$command is there and not from here (ClawMetry's own client has a command of this name); it is not replaced" \
    "move it away; to take over that client's host, see docs/adoption.md"
fi

supervisor="nothing starts it here (no systemd): you run 'clawmetry run'"
if [ "$system" = Darwin ]; then
  supervisor=launchd
elif [ -d /run/systemd/system ]; then
  supervisor=systemd
fi
name=$system
# shellcheck disable=SC1091 # the host's own
[ ! -r /etc/os-release ] || name=$(. /etc/os-release && printf '%s' "${PRETTY_NAME:-Linux}")

say "This host"
echo "  system     $name, $(uname -m), Python $version ($python)"
tail -n +2 "$work/here"

# -- agreement ----------------------------------------------------------------------------------

prefix=''
if [ "$uid" -ne 0 ] && [ "$system" != Darwin ]; then
  command -v sudo >/dev/null || refuse "this needs root, and there is no sudo" "run it as root"
  prefix=sudo
  if [ ! -t 0 ]; then
    sudo -n true 2>/dev/null || refuse "sudo asks for a password, and there is no terminal" "run it on a terminal, or as root"
    prefix="sudo -n"
  fi
fi

if [ $uninstall = yes ] && [ "$mode" = sandbox ]; then
  say "To do"
  echo "  remove     the daemon in the sandboxes, its keys and what it has not sent, and its services on this host"
elif [ $uninstall = yes ]; then
  say "To do"
  echo "  remove     the service, the program and the command clawmetry"
  if [ $purge = yes ]; then
    echo "  remove     configuration, keys, queue and archive: what is in the archive is lost"
    [ $yes = yes ] || [ $dry_run = yes ] || [ -t 0 ] ||
      refuse "--purge destroys the archive and its key, and there is no terminal to ask on" "add --yes"
  else
    echo "  keep       configuration, keys, queue and archive (--purge removes them)"
  fi
elif [ "$mode" = sandbox ]; then
  say "To do"
  if [ -n "$sandboxes" ]; then echo "  install    in the sandbox $(printf %s "$sandboxes" | tr '\n' ' ')"; else echo "  install    in each sandbox of this host"; fi
  echo "  WARNING    second best. The host is recommended: $why"
  echo "  rule       each sandbox's network policy must let it through: docs/policy.md"
  echo "  run        by $supervisor"
  echo "  send       to ClawMetry, sealed with your key"
else
  say "To do"
  echo "  install    on the host: $why"
  echo "  run        by $supervisor"
  if [ -n "$api_key" ]; then
    echo "  send       to ClawMetry, sealed with your key"
  else
    echo "  send       to where it goes already; at first, to an encrypted archive on this host"
  fi
fi
[ -z "$prefix" ] || echo "  sudo       is used once, for ansible-playbook, which changes the system"
if [ $dry_run = yes ]; then
  echo "  dry run    nothing is changed"
elif [ $yes = no ] && [ -t 0 ] && [ -t 1 ]; then
  printf '\nGo on? [y/N] '
  read -r answer
  case $answer in
  y | Y | yes | Yes) ;;
  *) refuse "not agreed, nothing was changed" "scripts/install.sh --dry-run shows all of it" ;;
  esac
fi

# -- Ansible, for ourselves ---------------------------------------------------------------------

if [ "$uid" -eq 0 ]; then cache=/var/cache; else cache=${XDG_CACHE_HOME:-$HOME/.cache}; fi
data=$cache/clawmetry-install
venv=$data/venv
set --
[ -z "$wheels" ] || set -- --no-index "--find-links=$wheels"
if ! cmp -s "$here/requirements/quickstart.txt" "$venv/requirements.txt" || ! "$venv/bin/python" -IBc 'import ansible' 2>/dev/null; then
  if [ $dry_run = yes ]; then
    venv=$work/venv
  else
    mkdir -p -- "$data"
    chmod 0700 "$data"
    rm -rf "$venv"
  fi
  say "Installing ansible-core, for this script alone, into $venv"
  new_venv
  pinned install requirements/quickstart.txt "$@" || {
    rm -rf "$venv"
    [ -z "$wheels" ] || fail "$wheels does not have what ansible-core needs for Python $version" "scripts/install.sh --make-offline DIR, on a machine with Python $version"
    fail "the packages did not arrive" "see pip's message above; a proxy is set by HTTPS_PROXY, no network is --offline DIR"
  }
  cp "$here/requirements/quickstart.txt" "$venv/requirements.txt"
fi
# The packages for a sandbox are for its own Python; the role looks for them.
if [ -n "$wheels" ] && [ $uninstall = no ] && [ "$mode" != sandbox ]; then
  pinned install roles/daemon/files/requirements.txt --dry-run --ignore-installed "$@" >/dev/null ||
    refuse "$wheels does not have what the daemon needs for Python $version" "scripts/install.sh --make-offline DIR, on a machine with Python $version"
fi

# -- the one run --------------------------------------------------------------------------------

# In a file of our own. Of a secret it holds the path only: the role's no_log tasks read it.
touch "$work/settings.json"
chmod 0600 "$work/settings.json"
"$venv/bin/python" -IBc '
import json, os, sys

python, api_key, encryption_key, wheels, mode, purge, sandboxes = sys.argv[1:]
role = {"host": "clawmetry_daemon_", "sandbox": "clawmetry_sandbox_daemon_"}[mode]
settings = {"ansible_python_interpreter": sys.executable, "clawmetry_mode": mode, role + "python": python}
if mode == "sandbox":
    settings[role + "sandboxes"] = sandboxes.splitlines()
for variable, path in ((role + "api_key", api_key), (role + "encryption_key", encryption_key)):
    if path:
        settings["install_path_of_" + variable] = path
        settings[variable] = "{{ lookup(\"ansible.builtin.file\", install_path_of_%s) | trim }}" % variable
# What this script gave to pip, the role gives to it too: sudo drops the environment.
if wheels:
    settings.update({role + "wheel_dir": wheels, role + "wheel_dir_on": "target"})
else:
    for variable, names in (
        (role + "pip_index_url", ["PIP_INDEX_URL"]),
        (role + "pip_proxy", ["PIP_PROXY", "HTTPS_PROXY", "https_proxy"]),
        (role + "pip_ca_file", ["PIP_CERT", "REQUESTS_CA_BUNDLE"]),
    ):
        settings.update({variable: os.environ[name] for name in reversed(names) if os.environ.get(name)})
if mode == "host":
    settings[role + "purge"] = purge == "yes"
json.dump(settings, sys.stdout)
' "$python" "$api_key" "$encryption_key" "$wheels" "${mode:-host}" "$purge" "$sandboxes" >"$work/settings.json"

# Run by root in a directory of its own, with none of the caller's environment.
# shellcheck disable=SC2016 # expanded by the shell that runs it
play='
set -eu
here=$1 python=$2 verbose=$3 locale=$4
shift 4
umask 022
own=$(mktemp -d /tmp/clawmetry-ansible.XXXXXX)
trap "rm -rf $own" EXIT
trap "exit 130" HUP INT TERM
mkdir -p "$own/collections/ansible_collections/clawmetry"
ln -s "$here" "$own/collections/ansible_collections/clawmetry/sync"
: >"$own/ansible.cfg"
cd /
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME="$own" LC_ALL="$locale" \
  ANSIBLE_CONFIG="$own/ansible.cfg" ANSIBLE_HOME="$own" ANSIBLE_LOCAL_TEMP="$own/local" ANSIBLE_REMOTE_TEMP="$own/remote" \
  ANSIBLE_COLLECTIONS_PATH="$own/collections" ANSIBLE_INJECT_FACT_VARS=false ANSIBLE_PIPELINING=true \
  ANSIBLE_DISPLAY_OK_HOSTS="$verbose" ANSIBLE_DISPLAY_SKIPPED_HOSTS="$verbose" ANSIBLE_CALLBACK_RESULT_FORMAT=yaml \
  "$python" -IBm ansible playbook --inventory localhost, --connection local "$@"
'
locale=C.UTF-8
[ "$system" != Darwin ] || locale=en_US.UTF-8

set -- --extra-vars "@$work/settings.json"
[ $dry_run = no ] || set -- "$@" --check --diff
[ $verbose = no ] || set -- "$@" -vvv
if [ $uninstall = yes ]; then set -- "$@" "$here/playbooks/uninstall.yml"; else set -- "$@" "$here/playbooks/site.yml"; fi

say "Running ansible-playbook"
# shellcheck disable=SC2086 # sudo and its option
$prefix /bin/sh -c "$play" sh "$here" "$venv/bin/python" "$([ $verbose = yes ] && echo true || echo false)" "$locale" "$@" </dev/null ||
  fail "ansible-playbook failed" "do what its message above says and run this again; --verbose tells more"

# -- the end ------------------------------------------------------------------------------------

if [ $dry_run = yes ]; then
  say "Nothing was changed. Next: the same command without --dry-run"
elif [ $uninstall = yes ]; then
  rm -rf "$data"
  [ "$uid" -eq 0 ] || rmdir "$cache" 2>/dev/null || :
  say "Removed"
  [ $purge = yes ] || [ "$mode" = sandbox ] || echo "  configuration, keys, queue and archive stay; scripts/install.sh --uninstall --purge removes them"
elif [ "$mode" = sandbox ]; then
  say "Installed"
  echo "  docker exec CONTAINER /opt/clawmetry/clawmetry doctor    says what is missing, and the rule for the network"
  echo "  systemctl status 'clawmetry-sandbox@*'                   what keeps it alive"
else
  [ "$system" = Darwin ] || command=clawmetry
  say "Installed"
  echo "  $command status      is it well (0 ok, 1 degraded, 2 down)"
  echo "  $command doctor      what to do when it is not"
  [ -n "$api_key" ] || echo "  Back up the encryption key: without it the archive is noise"
fi
