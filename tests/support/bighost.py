# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A made-up host with every layer of NemoClaw's architecture: users, engine, gateways, pods, registries, CLIs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from support.fakeengine import FIXTURES, FakeEngine
from support.samples import sample
from support.stubcli import NEMOCLAW_READS, StubCli, register_gateway

SANDBOX_PID = 5101  # of my-assistant, in docker-openshell-0.0.72.json
GATEWAY_PID = 700
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
BLUEPRINT = """# what this release asks for
version: "0.1.0"
min_openshell_version: "0.0.72"
max_openshell_version: "0.0.72"
min_openclaw_version: "2026.5.18"  # as baked
description: |
  version: "9.9.9"
components:
  sandbox:
    version: "8.8.8"
"""


def listening(port: int, inode: int = 31337, address: str = "0100007F") -> str:
    """Return a line of /proc/<pid>/net/tcp for a listening socket."""
    return "   0: %s:%04X 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 %d 1 0000000000000000 100 0 0 10 0\n" % (
        address,
        port,
        inode,
    )


class BigHost:
    """Alice runs NemoClaw, its gateway nemoclaw-18080 as a user service; a k3s-era gateway is left in a container."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.root = engine.root
        self.root.chmod(0o755)
        self.home = self.root / "home/alice"
        self.proc = self.root / "proc"
        (self.root / "etc").mkdir()
        (self.root / "etc/passwd").write_text("alice:x:%d:%d::/home/alice:/bin/sh\n" % (os.getuid(), os.getgid()))
        (self.root / "usr/bin").mkdir(parents=True)
        self.openshell = StubCli(self.root / "usr/bin/openshell", version="openshell 0.0.72")
        self._openshell_answers()
        self._registry()
        self._nemoclaw()
        self._processes()
        (self.home / ".openclaw/agents/main/sessions").mkdir(parents=True)

    def _openshell_answers(self) -> None:
        register_gateway(self.home, "nemoclaw", 8080)
        register_gateway(self.home, "nemoclaw-18080", 18080, active=False)
        for key, name in (
            ("sandbox-list", "openshell-0.0.72-sandbox-list.json"),
            ("status", "openshell-0.0.72-status.txt"),
            ("inference-get", "openshell-0.0.26-inference.txt"),
            ("policy-get", "openshell-0.0.72-policy-base.json"),
        ):
            self.openshell.says(key, sample(name))
        # The gateway of the k3s era knows no sandbox any more.
        self.openshell.says("sandbox-list+nemoclaw", b"[]\n")

    def _registry(self) -> None:
        self.registry = self.home / ".nemoclaw/sandboxes.json"
        self.registry.parent.mkdir(parents=True)
        document = json.loads((FIXTURES / "registry-2026-07.json").read_bytes())
        assistant = document["sandboxes"]["my-assistant"]
        assistant.update(gatewayName="nemoclaw-18080", gatewayPort=18080, agentVersion="2026.6.10")
        assistant["messaging"] = {
            "schemaVersion": 1,
            "plan": {
                "schemaVersion": 1,
                "channels": [
                    {"channelId": "telegram", "active": True, "token": "canary-token", "allowList": ["canary-chat"]},
                    {"channelId": "discord", "active": True, "disabled": True},
                    {"channelId": "canary-private", "active": True},
                ],
                "disabledChannels": [],
            },
        }
        self.registry.write_text(json.dumps(document))

    def _nemoclaw(self) -> None:
        bin_dir = self.home / ".nvm/versions/node/v22.16.0/bin"
        bin_dir.mkdir(parents=True)
        self.nemoclaw = StubCli(bin_dir / "nemoclaw", version="nemoclaw v0.1.0", reads=NEMOCLAW_READS)
        self.nemoclaw.says("list", sample("nemoclaw-2026-07-list.json"))
        self.nemoclaw.says("status", sample("nemoclaw-2026-07-status.json"))
        self.nemoclaw.says("name-status:my-assistant", sample("nemoclaw-2026-07-name-status.json"))
        self.nemoclaw.says("name-status:researcher", rc=1)
        source = self.home / ".nemoclaw/source"
        (source / "nemoclaw-blueprint").mkdir(parents=True)
        (source / "nemoclaw").mkdir()
        (source / "nemoclaw-blueprint/blueprint.yaml").write_text(BLUEPRINT)
        (source / "nemoclaw/openclaw.plugin.json").write_text('{"id": "nemoclaw", "version": "0.1.0"}')

    def _processes(self) -> None:
        gateway = self.proc / str(GATEWAY_PID)
        (gateway / "net").mkdir(parents=True)
        (gateway / "fd").mkdir()
        (gateway / "comm").write_text("openshell-gatew\n")
        (gateway / "status").write_text("Name:\topenshell-gatew\nNSpid:\t%d\n" % GATEWAY_PID)
        (gateway / "cgroup").write_text("0::/user.slice/user-1000.slice/user@1000.service/app.slice/nemoclaw-openshell-gateway.service\n")
        (gateway / "net/tcp").write_text(HEADER + listening(18080) + listening(22, 1))
        (gateway / "fd/3").symlink_to("socket:[31337]")
        sandbox = self.proc / str(SANDBOX_PID)
        (sandbox / "net").mkdir(parents=True)
        (sandbox / "net/tcp").write_text(HEADER + listening(3128, 5, "0100C80A"))

    def calls(self) -> list[str]:
        return self.openshell.verbs() + self.nemoclaw.verbs()

    def writes(self) -> str:
        return self.openshell.writes() + self.nemoclaw.writes()

    def remove_container(self, part: str) -> None:
        self.engine.containers = [row for row in self.engine.containers if part not in row["Names"][0]]

    def remove_cli(self) -> None:
        for path in (self.home / ".nvm", self.home / ".nemoclaw/source"):
            shutil.rmtree(path)

    def remove_gateway_process(self) -> None:
        shutil.rmtree(self.proc / str(GATEWAY_PID))


def seen_files(root: Path) -> dict[str, Any]:
    """Return what lies below ROOT: every path with its mode, size and mtime, to tell afterwards that nothing was touched."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if ".d/log" not in path:
                found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found
