#!/usr/bin/env bash
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs molecule with what its scenarios need: wheels for the host's Python, and the strict ingest on the
# address at which containers reach this machine. scripts/test calls it; molecule must be on the PATH.
#
#   molecule.sh [molecule arguments, default: test]
#   CLAWMETRY_TEST_KEEP=1 keeps the container, the ingest and the scratch directory for a look.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${CLAWMETRY_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/clawmetry-sync-tests}
requirements=$root/roles/daemon/files/requirements.txt
unset DOCKER_HOST DOCKER_CONTEXT

read -r version address < <(docker run --rm --pull never --label "clawmetry-test=${CLAWMETRY_TEST_RUN:-1}" clawmetry-test/host:1 sh -c \
    'python3 -c "import sys; print(\"%d.%d\" % sys.version_info[:2], end=\" \")"; ip -4 route show default | cut -d " " -f 3')
[ -n "$address" ] || { echo "molecule.sh: containers have no route to this machine" >&2 && exit 1; }
wheels=$cache/wheels-$version-$(sha256sum "$requirements" | cut -c1-16)
if [ ! -e "$wheels" ]; then
    rm -rf "$wheels.new"
    python -m pip download --quiet --disable-pip-version-check --require-hashes --only-binary :all: --python-version "$version" \
        --dest "$wheels.new" -r "$requirements"
    mv "$wheels.new" "$wheels"
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/cm.XXXXXX")
ingest=
cleanup() {
    if [ -n "${CLAWMETRY_TEST_KEEP-}" ]; then return; fi
    if [ -n "$ingest" ]; then kill "$ingest" 2>/dev/null || true; fi
    docker rm -f -v clawmetry-test-host >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap cleanup EXIT
docker rm -f -v clawmetry-test-host >/dev/null 2>&1 || true

# Molecule remembers under this directory what it created; a stale memory would skip the creation.
export ANSIBLE_HOME=$scratch/home ANSIBLE_COLLECTIONS_PATH=$scratch/collections PYTHONPATH=$root/tests CLAWMETRY_TEST_SCRATCH=$scratch CLAWMETRY_TEST_WHEELS=$wheels
python -c 'from support import ingest; print(ingest.KEY_TEXT)' >"$scratch/encryption_key"
python -c 'from support import ingest; print(ingest.API_KEY)' >"$scratch/api_key"
python -m support.ingest --key-file "$scratch/encryption_key" --api-key-file "$scratch/api_key" --listen "$address:0" \
    --certificates "$scratch" --log "$scratch/seen.jsonl" --url-file "$scratch/url" &
ingest=$!
for _ in $(seq 50); do
    [ ! -s "$scratch/url" ] || break
    kill -0 "$ingest"
    sleep 0.2
done

# The artefact is what is tested, installed as anybody would install it; the scenarios come from the copy it was built from.
copy=$("$root/tests/support/copy_collection.sh" "$scratch")
ansible-galaxy collection build --output-path "$scratch" "$copy" >/dev/null
ansible-galaxy collection install --offline -p "$scratch/collections" "$scratch"/clawmetry-sync-*.tar.gz >/dev/null
cd "$copy"
if [ $# = 0 ]; then set -- test; fi
molecule "$@"
