#!/usr/bin/env bash
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Copies the checkout, changes that are not committed included, to DIRECTORY/ansible_collections/clawmetry/sync
# as a git repository of its own, which ansible-test wants, and prints that path.
#
# Without the link collections/, through which `ansible-galaxy collection install` would replace the checkout itself.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
copy=$1/ansible_collections/clawmetry/sync
mkdir -p "$copy"
# A clone that belongs to somebody else is still the one under test.
git -c safe.directory="$root" -C "$root" ls-files -z --cached --others --exclude-standard -- . ':!collections' ':!ansible.cfg' |
    while IFS= read -r -d '' file; do [ ! -e "$root/$file" ] || printf '%s\0' "$file"; done |
    tar -C "$root" --null -T - -c | tar -C "$copy" -x
git -C "$copy" init -q
git -C "$copy" add -A
echo "$copy"
