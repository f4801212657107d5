#!/usr/bin/python
# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clawmetry_sandbox_info
short_description: Tell whether a sync daemon can be put into the sandboxes of this host
version_added: 0.1.0
description:
  - Looks at each sandbox in a container of this host, and tells what makes a daemon inside it impossible,
    and what would let its agent tamper with it.
  - Writes nothing. To learn the version of a sandbox's Python, that Python is run in it as nobody.
  - A daemon on the host, which is recommended, needs none of this.
options:
  sandboxes:
    description:
      - The sandboxes, by name, id or container id. Without it, every confirmed one that lives in a container.
    type: list
    elements: str
    default: []
  docker_host:
    description: Socket of the engine.
    type: str
    default: unix:///var/run/docker.sock
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: linux
notes:
  - Needs root, as the files of a container do.
seealso:
  - module: clawmetry.sync.clawmetry_sandbox
  - module: clawmetry.sync.clawmetry_snapshot
author:
  - ClawMetry sync contributors (@clawmetry)
"""

EXAMPLES = r"""
- name: See what a daemon inside would meet
  clawmetry.sync.clawmetry_sandbox_info:
  become: true
  register: inside

- name: See what is in the way
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ (item.problems + item.hazards) or ['nothing'] }}"
  loop: "{{ inside.sandboxes }}"
"""

RETURN = r"""
sandboxes:
  description: One row for each sandbox.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name, as it says itself.
      type: str
      sample: build-7
    container:
      description: Id of its container.
      type: str
    installed:
      description: Whether a daemon is in it already.
      type: bool
    problems:
      description: What makes it impossible.
      type: list
      elements: str
      sample: ["it is not running; start it first"]
    hazards:
      description: What would let the agent tamper with the daemon.
      type: list
      elements: str
      sample: ["its agent is root"]
    python:
      description: Its interpreter, V(null) when there is none to use.
      type: dict
      sample: {path: /usr/bin/python3.11, version: "3.11", machine: x86_64, glibc: "2.36", tag: 3.11-x86_64-2.36}
    user:
      description: The uid that the daemon would have in it.
      type: int
    proxy:
      description: The proxy that such a sandbox usually has, empty when it is no sandbox of OpenShell.
      type: str
    ca_file:
      description: The bundle of authorities in such a sandbox.
      type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clawmetry.sync.plugins.module_utils import config
from ansible_collections.clawmetry.sync.plugins.module_utils.errors import ClawmetryError
from ansible_collections.clawmetry.sync.plugins.module_utils.inside import look


def row(seen: look.Look) -> dict[str, object]:
    python = seen.python
    return {
        "name": seen.name,
        "container": seen.container,
        "installed": seen.installed,
        "problems": list(seen.problems),
        "hazards": list(seen.hazards),
        "python": None
        if python is None
        else {
            "path": "/" + os.fsdecode(python.path),
            "version": "%d.%d" % python.version[:2],
            "machine": python.machine,
            "glibc": "%d.%d" % python.glibc,
            "tag": python.tag,
        },
        "user": seen.user,
        "proxy": seen.proxy,
        "ca_file": seen.ca_file,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sandboxes": {"type": "list", "elements": "str", "default": []},
            "docker_host": {"type": "str", "default": config.Settings.docker_host},
        },
        supports_check_mode=True,
    )
    try:
        settings = config.build({"docker_host": module.params["docker_host"]}, {}, None)
        rows = [row(look.look(box, settings)) for box in look.candidates(settings, module.params["sandboxes"])]
    except ClawmetryError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(sandboxes=rows)


if __name__ == "__main__":
    main()
