#!/usr/bin/python
# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clawmetry_sandbox
short_description: Put the files of a sync daemon into a sandbox, or remove them
version_added: 0.1.0
description:
  - Makes C(/opt/clawmetry) in a sandbox of this host be what a daemon inside needs. It is the program, an environment with a copy
    of the sandbox's own Python, the configuration and the keys. They belong to the sandbox's root.
  - Works through the root directory of the container's first process, without running anything of the sandbox.
  - Starts nothing; the role P(clawmetry.sync.sandbox_daemon#role) does.
  - A daemon on the host, which is recommended, needs none of this.
options:
  sandbox:
    description: The sandbox, by name, id or container id.
    type: str
    required: true
  state:
    description: Whether the files are there. V(absent) takes the queue and what was not sent with it.
    type: str
    choices: [present, absent]
    default: present
  release:
    description: The program on the host, as M(clawmetry.sync.clawmetry_release) puts it there. Required with O(state=present).
    type: path
  packages:
    description: A directory on the host with the packages for the sandbox's Python. Required with O(state=present).
    type: path
  config:
    description: Keys of C(clawmetry.yml). Paths of its own and what is looked for are given.
    type: dict
    default: {}
  proxy:
    description: The C(proxy) of C(clawmetry.yml), which may carry a password.
    type: str
    default: ""
  api_key:
    description: The API key. Empty leaves the one that is there.
    type: str
    default: ""
  encryption_key:
    description: The encryption key. Empty leaves the one that is there.
    type: str
    default: ""
  accept_tampering:
    description: Go on although the agent can change, read or stop the daemon.
    type: bool
    default: false
  docker_host:
    description: Socket of the engine.
    type: str
    default: unix:///var/run/docker.sock
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Where the program or the packages are not on the host yet, it only says that something would change.
  diff_mode:
    support: partial
    details: Names what changes, and shows the configuration; never a key.
  platform:
    platforms: linux
notes:
  - Needs root, as the files of a container do.
seealso:
  - module: clawmetry.sync.clawmetry_sandbox_info
author:
  - ClawMetry sync contributors (@clawmetry)
"""

EXAMPLES = r"""
- name: The daemon's files are in the sandbox
  clawmetry.sync.clawmetry_sandbox:
    sandbox: build-7
    release: /opt/clawmetry-sandbox/clawmetry.pyz
    packages: /opt/clawmetry-sandbox/packages/3.11-x86_64-2.36
    config:
      ingest_url: https://ingest.clawmetry.com
      ca_file: /etc/openshell-tls/ca-bundle.pem
    proxy: http://10.200.0.1:3128
    api_key: "{{ vaulted_api_key }}"
    encryption_key: "{{ vaulted_encryption_key }}"
  become: true

- name: Nothing of it is left
  clawmetry.sync.clawmetry_sandbox:
    sandbox: build-7
    state: absent
  become: true
"""

RETURN = r"""
container:
  description: Id of the sandbox's container. V(null) when there is no such sandbox, which is fine with O(state=absent).
  returned: success
  type: str
hazards:
  description: What lets the agent tamper with the daemon.
  returned: with O(state=present)
  type: list
  elements: str
written:
  description: What was, or would be, written below C(/opt/clawmetry). V(null) when it cannot be told yet.
  returned: with O(state=present)
  type: list
  elements: str
  sample: [clawmetry.pyz, etc/clawmetry.yml]
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.clawmetry.sync.plugins.module_utils import config
from ansible_collections.clawmetry.sync.plugins.module_utils.errors import ClawmetryError, ConfigError, shown
from ansible_collections.clawmetry.sync.plugins.module_utils.inside import deliver, look

CONFIG = b"etc/clawmetry.yml"


def present(params: dict[str, object], settings: config.Settings, check_mode: bool) -> dict[str, object]:
    """Make the files be there and return the module's result. Raises ClawmetryError."""
    (box,) = look.candidates(settings, [params["sandbox"]])
    seen = look.look(box, settings)
    if seen.problems:
        raise ConfigError("no daemon can be put into this sandbox", where=shown(seen.name), cause="; ".join(seen.problems))
    if seen.hazards and not params["accept_tampering"]:
        step = "install on the host, or accept it: accept_tampering"
        raise ConfigError("its agent could tamper with the daemon", where=shown(seen.name), cause="; ".join(seen.hazards), next_step=step)
    result = {"container": seen.container, "hazards": list(seen.hazards), "written": None, "changed": True}
    given = {**params["config"], "proxy": params["proxy"]} if params["proxy"] else params["config"]
    deliver.settings_inside(given)
    if check_mode and not (os.path.exists(params["release"]) and os.path.isdir(params["packages"])):
        return result
    with look.hold(box, settings) as held:
        tree = deliver.wanted(
            seen,
            held.root,
            release=params["release"],
            packages=params["packages"],
            given=given,
            keys={name: params[name] for name in deliver.KEYS},
        )
        plan = deliver.plan(held.root, tree)
        before = deliver.text_of(held.root, CONFIG) if CONFIG in plan.wrong else ""
        after = tree[CONFIG].data().decode() if CONFIG in plan.wrong else ""
        if plan.changed and not check_mode:
            deliver.carry_out(held.root, plan)
    result.update(changed=plan.changed, written=[shown(path) for path in plan.wrong])
    head = "%s:/opt/clawmetry" % shown(seen.name, 60)
    hidden = "@" in str(given.get("proxy"))  # a password
    result["diff"] = {
        "before_header": head,
        "after_header": head,
        "before": "".join("%s\n" % shown(path) for path in plan.extra) + ("" if hidden else before),
        "after": "".join("%s\n" % shown(path) for path in plan.wrong if b"site-packages/" not in path) + ("" if hidden else after),
    }
    return result


def absent(params: dict[str, object], settings: config.Settings, check_mode: bool) -> dict[str, object]:
    """Make the files be gone and return the module's result. Raises ClawmetryError."""
    try:
        (box,) = look.candidates(settings, [params["sandbox"]])
    except look.NoSuchSandbox:
        return {"container": None, "changed": False}
    seen = look.look(box, settings)
    with look.hold(box, settings) as held:
        if seen.installed and not check_mode:
            deliver.remove(held.root)
    diff = {"before": "/opt/clawmetry\n" if seen.installed else "", "after": ""}
    return {"container": seen.container, "changed": seen.installed, "diff": diff}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sandbox": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "release": {"type": "path"},
            "packages": {"type": "path"},
            "config": {"type": "dict", "default": {}},
            "proxy": {"type": "str", "no_log": True, "default": ""},
            "api_key": {"type": "str", "no_log": True, "default": ""},
            "encryption_key": {"type": "str", "no_log": True, "default": ""},
            "accept_tampering": {"type": "bool", "default": False},
            "docker_host": {"type": "str", "default": config.Settings.docker_host},
        },
        required_if=[("state", "present", ["release", "packages"])],
        supports_check_mode=True,
    )
    act = present if module.params["state"] == "present" else absent
    try:
        settings = config.build({"docker_host": module.params["docker_host"]}, {}, None)
        result = act(module.params, settings, module.check_mode)
    except (ClawmetryError, OSError) as exc:
        module.fail_json(msg=str(exc))
    diff = result.pop("diff", None)
    if module._diff and diff and result["changed"]:
        result["diff"] = diff
    for text in result.get("hazards", ()):
        module.warn("the agent can tamper with the daemon in its sandbox: %s" % text)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
