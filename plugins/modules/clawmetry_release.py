#!/usr/bin/python
# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

# The work is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: clawmetry_release
short_description: Put the sync daemon on a host as one file
version_added: 0.1.0
description:
  - Packs the engine of this collection into one Python zip application, on the controller, and copies it to the host.
  - The file is the same, byte for byte, from whichever controller it comes, so it is copied again only when the engine changed.
options:
  dest:
    description: The file to write. Its directory must exist.
    type: path
    required: true
  owner:
    description: Owner of the file.
    type: str
  group:
    description: Group of the file.
    type: str
  mode:
    description: Mode of the file, as for M(ansible.builtin.copy).
    type: raw
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying the host.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would change. The content, a zip file, is not shown.
    support: partial
    details: Says that a binary file differs, and not how.
notes:
  - Runs no task on localhost, so it works with C(ansible-pull) too.
seealso:
  - module: ansible.builtin.copy
author:
  - ClawMetry sync contributors (@clawmetry)
"""

EXAMPLES = r"""
- name: The daemon is on the host
  clawmetry.sync.clawmetry_release:
    dest: /opt/clawmetry/releases/0.1.0/clawmetry.pyz
    mode: "0644"
  become: true
"""

RETURN = r"""
dest:
  description: The file that was, or would be, written.
  returned: success
  type: str
  sample: /opt/clawmetry/releases/0.1.0/clawmetry.pyz
checksum:
  description: SHA-1 of the file, as M(ansible.builtin.copy) returns it.
  returned: success
  type: str
  sample: 6e642bb8dd5c2e027bf21dd923337cbb4214f827
"""
