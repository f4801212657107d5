#!/usr/bin/python
# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clawmetry_policy
short_description: Render and apply the egress rule of a daemon inside a sandbox
version_added: 0.1.0
description:
  - Renders the smallest rule that lets a sync daemon inside a sandbox reach its ingest, for NVIDIA NemoClaw, for OpenShell, and for others.
  - With O(sandbox) it also puts the rule into that sandbox's policy, or takes it out, and keeps everything else in the policy.
  - A daemon on the host, which is recommended, needs no rule at all.
options:
  state:
    description:
      - V(present) makes the rule (and the files in O(dest)) be there, V(absent) removes them.
    type: str
    choices: [present, absent]
    default: present
  ingest_url:
    description:
      - The daemon's C(ingest_url). Its host, port and path prefix are what the rule allows, exactly.
    type: str
    default: https://ingest.clawmetry.com
  binary:
    description:
      - The one interpreter that runs the daemon, as C(readlink -f) shows it inside the sandbox.
      - Whoever runs this program is let through, so it is best a copy that only the daemon uses, in a directory the agent cannot write.
      - Required with O(state=present).
    type: str
  allow_wide_binary:
    description:
      - Accept a O(binary) that is a pattern, or that the agent can replace. The agent can then send to the ingest as well.
    type: bool
    default: false
  name:
    description:
      - Name of the rule, of the preset, and (with underscores) of its key in the policy.
    type: str
    default: clawmetry-ingest
  dest:
    description:
      - A directory on the host, which must exist, for the three renderings.
    type: path
  sandbox:
    description:
      - The sandbox whose policy is to have the rule. Without it nothing is applied.
      - A push makes the sandbox's open connections drop. It happens only when there is a difference.
    type: str
  via:
    description:
      - Which command line changes the policy. V(auto) is C(nemoclaw) where the user's NemoClaw has the sandbox, else C(openshell).
    type: str
    choices: [auto, nemoclaw, openshell]
    default: auto
  gateway:
    description:
      - Name of the gateway. Without it, the one that NemoClaw's registry names, else the user's active one.
    type: str
  openshell:
    description:
      - The C(openshell) command. Without it, the one in the system's directories or in C(~/.local/bin).
    type: path
  nemoclaw:
    description:
      - The C(nemoclaw) command. Without it, the one in the system's directories, in C(~/.local/bin) or of nvm.
    type: path
  timeout:
    description:
      - Seconds to wait for the sandbox to load a policy.
    type: int
    default: 60
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying the host.
    support: full
  diff_mode:
    description: Returns the whole policy and the files, before and after.
    support: full
requirements:
  - PyYAML, for OpenShell older than 0.0.47 only. The module looks for a Python that has it.
notes:
  - Run it as the user who owns the sandbox (C(become_user)). The gateway's registration and keys are that user's.
  - A failed push is followed by one of the former policy. When that fails too, RV(previous_policy) holds it.
  - Refuses, with the reason, under a global policy, when the policy cannot be read, and when the rule's name is taken.
  - Refuses too when a file in O(dest) is a symbolic link.
  - Sandboxes of OpenShell workspaces other than the default one are not reached.
seealso:
  - module: clawmetry.sync.clawmetry_snapshot
author:
  - ClawMetry sync contributors (@clawmetry)
"""

EXAMPLES = r"""
- name: See the rule
  clawmetry.sync.clawmetry_policy:
    binary: /opt/clawmetry/venv/bin/python3
  register: egress

- name: Show what to hand to NemoClaw
  ansible.builtin.debug:
    msg: "{{ egress.rendered.nemoclaw.splitlines() }}"

- name: The sandbox may reach our own ingest, and nothing else more
  clawmetry.sync.clawmetry_policy:
    sandbox: research
    ingest_url: https://ingest.example.com:8443
    binary: /opt/clawmetry/venv/bin/python3
  become: true
  become_user: alice

- name: The rule is gone
  clawmetry.sync.clawmetry_policy:
    sandbox: research
    state: absent
  become: true
  become_user: alice
"""

RETURN = r"""
rendered:
  description: The rule in its three forms. V(null) with O(state=absent).
  returned: always
  type: dict
  contains:
    generic:
      description: The snippet for documentation and other wrappers.
      returned: with O(state=present)
      type: str
      sample: "network:\n  egress:\n    - host: ingest.clawmetry.com\n      port: 443\n      protocol: https\n"
    nemoclaw:
      description: A NemoClaw preset, for C(nemoclaw NAME policy-add --from-file FILE --yes).
      returned: with O(state=present)
      type: str
    openshell:
      description: An OpenShell block, to be merged into a policy.
      returned: with O(state=present)
      type: str
files:
  description: The files in O(dest).
  returned: always
  type: list
  elements: str
  sample: [/etc/clawmetry/policy/clawmetry-egress.yml]
via:
  description: What changed, or would change, the policy. V(null) when there was nothing to change.
  returned: always
  type: str
  sample: nemoclaw
revision:
  description: Revision of the policy in force. V(null) when it was not looked at, or is not known.
  returned: always
  type: int
  sample: 4
restored:
  description: After a failed push, whether the former policy is in force again. V(null) when nothing had been stored.
  returned: always
  type: bool
previous_policy:
  description: The policy that was in force before, without the gateway's own entries, as YAML. V(null) when nothing is lost.
  returned: always
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, probe_interpreters_for_module, respawn_module
from ansible_collections.clawmetry.sync.plugins.module_utils.config import CLOUD_URL
from ansible_collections.clawmetry.sync.plugins.module_utils.egress import apply, files, render, rule
from ansible_collections.clawmetry.sync.plugins.module_utils.egress.policy import MissingYaml, wide_binary
from ansible_collections.clawmetry.sync.plugins.module_utils.errors import ClawmetryError

PYTHONS = ["/opt/clawmetry/venv/bin/python", "/usr/bin/python3"]


def the_rule(params: dict[str, object]) -> rule.Rule:
    """The rule that is wanted; of one that is to go, only the name counts. Raises ClawmetryError."""
    if params["state"] == "absent":
        return rule.build(binary="/nonexistent", name=params["name"])
    made = rule.build(ingest_url=params["ingest_url"], binary=params["binary"], name=params["name"])
    wide = rule.too_wide(made.binary)
    if wide and not params["allow_wide_binary"]:
        raise wide_binary(wide)
    return made


def the_plan(params: dict[str, object], made: rule.Rule) -> apply.Plan | None:
    """What is to be done to the sandbox's policy, None when no sandbox is named. Writes nothing. Raises ClawmetryError."""
    if params["sandbox"] is None:
        return None
    options = {key: params[key] for key in ("via", "gateway", "openshell", "nemoclaw")}
    target = apply.find(params["sandbox"], timeout_s=params["timeout"], **options)
    return apply.plan(target, made, present=params["state"] == "present", allow_wide_binary=params["allow_wide_binary"])


def file_diffs(directory: str, held: dict[str, str | None], wanted: dict[str, str | None]) -> list[dict[str, str]]:
    """One diff for each file that is not as wanted."""
    found = []
    for key, name in render.FILES.items():
        if held[key] != wanted[key]:
            path = os.path.join(directory, name)
            found.append({"before_header": path, "after_header": path, "before": held[key] or "", "after": wanted[key] or ""})
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "ingest_url": {"type": "str", "default": CLOUD_URL},
            "binary": {"type": "str"},
            "allow_wide_binary": {"type": "bool", "default": False},
            "name": {"type": "str", "default": rule.DEFAULT_NAME},
            "dest": {"type": "path"},
            "sandbox": {"type": "str"},
            "via": {"type": "str", "choices": ["auto", "nemoclaw", "openshell"], "default": "auto"},
            "gateway": {"type": "str"},
            "openshell": {"type": "path"},
            "nemoclaw": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
        },
        required_if=[("state", "present", ["binary"])],
        supports_check_mode=True,
    )
    params, dest = module.params, module.params["dest"]
    present = params["state"] == "present"
    result = {"changed": False, "rendered": None, "files": [], "via": None, "revision": None, "restored": None, "previous_policy": None}
    plan = None
    try:
        # Everything is looked at before anything is written.
        made = the_rule(params)
        wanted = render.all_of(made) if present else dict.fromkeys(render.FILES)
        diffs = file_diffs(dest, files.look(dest), wanted) if dest else []
        plan = the_plan(params, made)

        result["rendered"] = wanted if present else None
        result["files"] = [os.path.join(dest, name) for name in render.FILES.values()] if dest and present else []
        cautions = [text for text in (rule.too_wide(made.binary), rule.caution(made.binary)) if text and present]
        if plan is not None:
            result["revision"] = plan.base.revision
            if plan.changed:
                diffs.append(plan.diff())
                result["via"] = "nemoclaw" if plan.target.nemoclaw else "openshell"
        if not module.check_mode:
            if dest and diffs:
                files.write(dest, wanted)
            if plan is not None:
                outcome = apply.carry_out(plan)
                result.update(via=outcome.via, revision=outcome.revision)
                cautions += outcome.warnings
        elif plan is not None:
            cautions += plan.warnings
    except MissingYaml as exc:
        python = None if has_respawned() else probe_interpreters_for_module(PYTHONS, "yaml")
        if python:
            respawn_module(python)
        module.fail_json(msg=str(exc), **result)
    except apply.PushFailed as exc:
        result.update(changed=exc.restored is not None, restored=exc.restored)
        if plan is not None and exc.restored is False:
            result["previous_policy"] = render.yaml(plan.base.document)
        module.fail_json(msg=str(exc), **result)
    except ClawmetryError as exc:
        module.fail_json(msg=str(exc), **result)

    for text in cautions:
        module.warn(text)
    if module._diff:
        result["diff"] = diffs
    module.exit_json(**{**result, "changed": bool(diffs)})


if __name__ == "__main__":
    main()
