#!/usr/bin/python
# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: clawmetry_snapshot
short_description: Tell which AI-agent sandboxes a host runs
version_added: 0.1.0
description:
  - Finds the AI-agent sandboxes of a host (NVIDIA NemoClaw and OpenShell, plain Docker, bare OpenClaw) and returns them as facts.
  - Reads from outside only. Nothing is installed, started or executed in a sandbox, and nothing is written on the host.
  - Asks a user's own C(openshell), as that user, with its reading verbs. It is given seconds for its answers.
  - With O(sync=true) it also does one pass of the sync daemon, with the host's own configuration, and says what was shipped.
options:
  sync:
    description:
      - Also read everything that is new in the sandboxes, seal it and ship it, by the installed daemon's C(clawmetry sync).
      - Needs the role P(clawmetry.sync.daemon#role) to have run on the host.
      - Never happens in check mode.
    type: bool
    default: false
  config:
    description:
      - Configuration file on the host.
      - Without it, C(/etc/clawmetry/clawmetry.yml) is used, else C(~/.config/clawmetry/clawmetry.yml), else the defaults.
    type: path
  gather_subset:
    description:
      - What to look at. V(all) is everything, V(min) is the presence of each runtime without reading into sandboxes.
      - Or the runtimes to look for. The others come back as not looked at.
    type: list
    elements: str
    choices: [all, min, nemoclaw, openshell, docker, podman, k3s, openclaw]
    default: [all]
  sandbox:
    description:
      - Restrict the facts and the sync to the sandbox of this name, and make it the default one, as E(NEMOCLAW_SANDBOX) does.
    type: str
  deep:
    description:
      - Allow questions that are not free of side effects, such as C(nemoclaw <name> status), which can start a gateway.
    type: bool
    default: false
  timeout:
    description:
      - Seconds after which the work ends with what was found until then. What was not asked any more says so.
    type: int
    default: 60
attributes:
  check_mode:
    description: Can run in check mode and return the facts of the host without changing it.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would change.
    support: none
  facts:
    description: Returns facts as RV(ansible_facts).
    support: full
requirements:
  - PyYAML, where there is a configuration file that is not JSON. The installed daemon's Python has it, and is used then.
notes:
  - Without root (or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH) sandboxes are found but may not be readable. Their C(reason) says so.
author:
  - ClawMetry sync contributors (@clawmetry)
"""

EXAMPLES = r"""
- name: Know what runs here
  clawmetry.sync.clawmetry_snapshot:

- name: Show the names of the sandboxes
  ansible.builtin.debug:
    msg: "{{ ansible_facts['clawmetry']['sandboxes'] | map(attribute='name') | list }}"

- name: Only ask which runtimes are present
  clawmetry.sync.clawmetry_snapshot:
    gather_subset: [min]

- name: Ship what is new, now
  clawmetry.sync.clawmetry_snapshot:
    sync: true
    timeout: 600
  become: true
"""

RETURN = r"""
ansible_facts:
  description: Facts of the host. V(null) means that it could not be told, with the reason in C(evidence) or C(reason).
  returned: always
  type: dict
  contains:
    clawmetry:
      description: The one fact of this module.
      returned: always
      type: dict
      contains:
        schema_version:
          description: Version of this structure. It grows with incompatible changes only.
          returned: always
          type: int
          sample: 1
        node:
          description: The host itself.
          returned: always
          type: dict
          sample:
            id: build-07
            hostname: build-07
            os: linux
            arch: x86_64
            machine_id_hash: 6f1c0d9a52b7e4806f1c0d9a52b7e480
        runtimes:
          description: Presence of each runtime, with the evidence that was seen.
          returned: always
          type: dict
          sample:
            docker:
              present: true
              version: 20.10.24
              path: /var/run/docker.sock
              user: null
              evidence: ["unix:///var/run/docker.sock answers"]
        deployment:
          description: Whether this runs on a host or within a sandbox, and what is recommended.
          returned: always
          type: dict
          sample:
            mode: host
            recommended: host
            warnings: []
        sandboxes:
          description: Every confirmed sandbox.
          returned: always
          type: list
          elements: dict
          sample:
            - name: research
              id: 3f2a9c41d7e8
              type: nemoclaw
              status: running
              phase_source: docker
              gateway: nemoclaw
              workspace: default
              agent: openclaw
              image: ghcr.io/nvidia/openshell-community/sandboxes/openclaw
              default: true
              inference: {provider: nvidia, model: nemotron}
              security: {sandbox_enabled: true, network_policy: null, policies: null}
              store: jsonl
              agents: [main]
              sessions: {count: 12, bytes: 481520, last_activity: "2026-11-21T19:43:04Z"}
              route: proc
              readable: true
              reason: null
              agent_version: 2026.6.10
              driver: docker
              messaging: [telegram]
              evidence:
                - label openshell.ai/*
                - "openshell sandbox list: gateway nemoclaw, phase Ready"
                - registry /home/alice/.nemoclaw/sandboxes.json
        topology:
          description:
            - The layers of NemoClaw's architecture on this host, from its command to the sandbox. Each says whether it is there
              (C(present)), what is known of it, and what told so (C(evidence)).
          returned: always
          type: dict
          contains:
            host_cli:
              description: NemoClaw's command, and the Node it runs with.
              returned: always
              type: dict
              sample: {present: true, version: 0.1.0, path: /home/alice/.local/bin/nemoclaw, user: alice,
                       node: {version: 22.16.0, path: /usr/bin/node}, evidence: [binary /home/alice/.local/bin/nemoclaw]}
            engine:
              description: The container engine; C(running) tells whether one answers, which an installed one need not.
              returned: always
              type: dict
              sample: {present: true, kind: docker, version: 28.2.2, running: true, evidence: ["unix:///var/run/docker.sock answers"]}
            gateway:
              description:
                - OpenShell's gateways, each with the user it belongs to. C(kind) is container, host process, user service,
                  system service, or remote.
              returned: always
              type: dict
              sample:
                present: true
                gateways:
                  - name: nemoclaw
                    user: alice
                    kind: user service
                    driver: docker
                    port: 8080
                    running: true
                    version: 0.0.72
                    evidence: ["registered with openshell of alice, active", answers]
                evidence: [1 running]
            k3s:
              description: Whether a k3s is embedded in a gateway's container, as OpenShell did until 0.0.36.
              returned: always
              type: dict
              sample: {present: true, embedded: true, running: true, containers: [openshell-cluster-nemoclaw],
                       evidence: [container openshell-cluster-nemoclaw]}
            sandbox:
              description: How many sandboxes there are of each kind. C(elsewhere) are those no container or pod of which was seen.
              returned: always
              type: dict
              sample: {present: true, containers: 1, pods: 0, bare: 0, elsewhere: 0, running: 1,
                       evidence: ["research: label openshell.ai/*"]}
            proxy:
              description: Whether the proxy that checks a sandbox's requests was seen.
              returned: always
              type: dict
              sample: {present: true, port: 3128, sandboxes: 1, evidence: [port 3128 listens in the network of 1 sandbox(es)]}
            state_files:
              description: Which of NemoClaw's and OpenShell's own files and directories each user has. None of them is opened for this.
              returned: always
              type: dict
              sample:
                present: true
                users:
                  - user: alice
                    files: [~/.nemoclaw/sandboxes.json, ~/.config/openshell/gateways]
                evidence: [2 of alice]
        blueprint:
          description:
            - What the C(blueprint.yaml) of NemoClaw's installed source asks for, and whether OpenShell and the oldest OpenClaw
              that a registry records are as new as that. V(null) where one of the two is not known.
          returned: always
          type: dict
          sample:
            present: true
            version: 0.1.0
            min_openshell_version: 0.0.72
            min_openclaw_version: 2026.5.18
            openshell_satisfied: true
            openclaw_satisfied: null
            plugin_version: 0.1.0
            path: /home/alice/.nemoclaw/source/nemoclaw-blueprint/blueprint.yaml
            user: alice
            evidence: [blueprint /home/alice/.nemoclaw/source/nemoclaw-blueprint/blueprint.yaml]
        sync:
          description: What one pass shipped.
          returned: with O(sync=true), not in check mode
          type: dict
          sample:
            ran: true
            ok: true
            events: 480
            batches: 3
            bytes: 61230
            pending: 0
            quarantined: 0
            duration_ms: 412
            errors: []
        metadata:
          description: The default sandbox in flat keys, as the cloud stores them.
          returned: always
          type: dict
          sample:
            sandbox.name: research
            sandbox.status: running
            sandbox.type: nemoclaw
            inference.provider: nvidia
            inference.model: nemotron
            security.sandbox_enabled: true
            security.network_policy: null
"""

import importlib.util
import json
import os
import pwd
from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.respawn import has_respawned, respawn_module
from ansible_collections.clawmetry.sync.plugins.module_utils import api
from ansible_collections.clawmetry.sync.plugins.module_utils.config import MAX_CONFIG_BYTES
from ansible_collections.clawmetry.sync.plugins.module_utils.errors import ClawmetryError
from ansible_collections.clawmetry.sync.plugins.module_utils.model import RUNTIMES
from ansible_collections.clawmetry.sync.plugins.module_utils.snapshot import unknown

SYSTEM_CONFIG = "/etc/clawmetry/clawmetry.yml"


def home() -> str:
    """The home of who we really are: under sudo, $HOME may still be someone else's."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/nonexistent"


def installation() -> tuple[str | None, str | None]:
    """The daemon's Python and its command, as the role installs them for the host or for us; nobody else's."""
    own = home() + "/.local"
    for venv, command in (("/opt/clawmetry/venv", "/usr/local/bin/clawmetry"), (own + "/share/clawmetry/venv", own + "/bin/clawmetry")):
        python = venv + "/bin/python"
        try:
            owners = {os.stat(venv).st_uid, os.stat(command).st_uid}
        except OSError:
            continue
        if owners <= {0, os.geteuid()} and os.access(python, os.X_OK) and os.access(command, os.X_OK):
            return python, command
    return None, None


def needs_yaml(config: str | None) -> bool:
    """There is a configuration to read that is not JSON, and this Python has no PyYAML to do it."""
    if importlib.util.find_spec("yaml") is not None:
        return False
    files = [config] if config else [SYSTEM_CONFIG, home() + "/.config/clawmetry/clawmetry.yml"]
    try:
        with open(next(path for path in files if os.path.exists(path)), "rb") as stream:
            json.loads(stream.read(MAX_CONFIG_BYTES))
    except (StopIteration, OSError):
        return False  # none to read, or none that can be: api says which
    except (ValueError, RecursionError):
        return True
    return False


def sync_now(module: AnsibleModule, command: str) -> dict[str, object]:
    """One pass by the installed daemon, under its own identity, and what it says of it. Raises ClawmetryError."""
    argv = [command]
    if module.params["config"]:
        argv += ["--config", module.params["config"]]
    argv += ["sync", "--json", "--timeout", str(module.params["timeout"])]
    environment = {"NEMOCLAW_SANDBOX": module.params["sandbox"]} if module.params["sandbox"] else {}
    rc, out, err = module.run_command(argv, environ_update=environment)
    try:
        outcome = json.loads(out)
    except ValueError:
        cause = err.strip()[-2000:] or "exit code %d" % rc
        raise ClawmetryError("sync did not run", where=command, cause=cause, next_step="clawmetry doctor") from None
    for error in outcome.get("errors") or []:
        module.warn("sync: %s" % error)
    return outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sync": {"type": "bool", "default": False},
            "config": {"type": "path"},
            "gather_subset": {"type": "list", "elements": "str", "choices": ["all", "min", *RUNTIMES], "default": ["all"]},
            "sandbox": {"type": "str"},
            "deep": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    sync = module.params["sync"] and not module.check_mode

    def fail(reason: str) -> NoReturn:
        module.fail_json(msg=reason, changed=False, ansible_facts={"clawmetry": unknown(reason)})

    if module.params["timeout"] < 1:
        fail("timeout must be at least 1 second, it is %d" % module.params["timeout"])
    python, command = installation()

    if needs_yaml(module.params["config"]):
        if python and not has_respawned():
            respawn_module(python)
        fail(missing_required_lib("PyYAML", reason="to read a configuration that is not JSON, or the installed daemon"))
    if sync and not command:
        fail("sync needs the installed daemon. Next: run the role clawmetry.sync.daemon on this host")

    try:
        outcome = sync_now(module, command) if sync else {}
        facts = api.snapshot(
            config_path=module.params["config"],
            gather_subset=tuple(module.params["gather_subset"]),
            sandbox=module.params["sandbox"],
            deep=module.params["deep"],
            timeout_s=float(module.params["timeout"]),
        )
    except ClawmetryError as exc:
        fail(str(exc))

    if sync:
        facts["sync"] = outcome
    module.exit_json(changed=bool(outcome.get("batches")), ansible_facts={"clawmetry": facts})


if __name__ == "__main__":
    main()
