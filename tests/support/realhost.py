# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The architecture as a running host: a user's home with NemoClaw's and OpenShell's CLIs and state, a gateway process,
and on the real engine a cluster container with two pods and a sandbox of the Docker driver with its proxy.

Everything but what the CLIs print is real: containers, pods, processes, sockets and files.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from support.cluster import Pod, cluster, start_pod
from support.enginefront import EngineFront
from support.sandbox import Sandbox, docker, openshell_0_0_72, until
from support.stubcli import NEMOCLAW_READS, StubCli, register_gateway

BLUEPRINT = 'version: "0.1.0"\nmin_openshell_version: "0.0.72"\nmin_openclaw_version: "2026.5.18"\n'
# Called like a script, a program has the script's name.
GATEWAY = """#!%s -I
import socket, time
listener = socket.create_server(("127.0.0.1", %d))
time.sleep(600)
"""
REFUSED = "Error:   × transport error\n  ├─▶ tcp connect error\n  ╰─▶ Connection refused (os error 111)\n".encode()
ROUTE = b"Gateway inference:\n\n  Provider: nvidia-prod\n  Model: nvidia/live-model\n  Version: 3\n"
POLICY = json.dumps({"version": 2, "status": "effective", "policy": {"network_policies": {"npm_yarn": {}, "github": {}}}}).encode()


class RealHost:
    """``assistant`` is the Docker driver's sandbox, ``pods`` those of the older gateway; names begin with UNIQUE."""

    def __init__(self, home: Path, unique: str, cleanup: contextlib.ExitStack) -> None:
        self.home = home
        self._cleanup = cleanup
        # Two gateways by NemoClaw's naming; ports that no other test has.
        self.port = random.randrange(20_000, 40_000)
        self.old_port = self.port + 20_000
        self.gateway, self.old_gateway = "nemoclaw-%d" % self.port, "nemoclaw-%d" % self.old_port
        self.engine = cleanup.enter_context(EngineFront())
        self.assistant_id = str(uuid.uuid4())
        self.assistant: Sandbox = cleanup.enter_context(openshell_0_0_72(unique + "-assistant", sandbox_id=self.assistant_id))
        self.cluster: Sandbox = cleanup.enter_context(cluster(self.old_gateway))
        self.pods: list[Pod] = [start_pod(self.cluster, unique + "-newer"), start_pod(self.cluster, unique + "-older", claim=False)]
        self.engine.shown |= {self.assistant.id, self.cluster.id}
        self.assistant.start_sh("exec httpd -f -p 3128 -h /tmp", user="0")
        self._programs()
        self._registry()
        self._process()
        until(lambda: b":0C38 " in docker("exec", self.assistant.id, "cat", "/proc/net/tcp", "/proc/net/tcp6"), what="proxy")

    @property
    def names(self) -> list[str]:
        return [self.assistant.name, *(pod.name for pod in self.pods)]

    def config(self) -> dict[str, Any]:
        kinds = ["nemoclaw", "openshell", "docker", "k3s", "openclaw"]
        return {"discover": kinds, "homes": [str(self.home)], "docker_host": self.engine.url, "sandboxes": {"include": ["*"]}}

    def _programs(self) -> None:
        bin_dir = self.home / ".local/bin"
        bin_dir.mkdir(parents=True)
        register_gateway(self.home, self.gateway, self.port)
        register_gateway(self.home, self.old_gateway, self.old_port, active=False)
        self.openshell = StubCli(bin_dir / "openshell", version="openshell 0.0.72")
        self.nemoclaw = StubCli(bin_dir / "nemoclaw", version="nemoclaw v0.1.0", reads=NEMOCLAW_READS)
        self.node = StubCli(bin_dir / "node", version="v22.16.0", reads="--version")
        self.openshell.says("status", b"  Status: Connected\n  Version: 0.0.72\n")
        self.openshell.says("inference-get", ROUTE)
        self.openshell.says("policy-get", POLICY)
        self.lists(self.gateway, (self.assistant.name, self.assistant_id, "Error"))
        self.lists(self.old_gateway, *((pod.name, "id-" + pod.name, "Ready") for pod in self.pods))
        source = self.home / ".nemoclaw/source"
        (source / "nemoclaw-blueprint").mkdir(parents=True)
        (source / "nemoclaw-blueprint/blueprint.yaml").write_text(BLUEPRINT)

    def lists(self, gateway: str, *rows: tuple[str, str, str]) -> None:
        """Let ``openshell sandbox list`` of a gateway tell of (name, id, phase)."""
        told = [{"name": name, "id": identity, "phase": phase, "current_policy_version": 2} for name, identity, phase in rows]
        self.openshell.says("sandbox-list+" + gateway, json.dumps(told).encode())

    def unreachable(self) -> None:
        for gateway in (self.gateway, self.old_gateway):
            self.openshell.says("sandbox-list+" + gateway, rc=1, err=REFUSED)
        for key in ("status", "inference-get", "policy-get"):
            self.openshell.says(key, rc=1, err=REFUSED)

    def _registry(self) -> None:
        rows: dict[str, Any] = {
            self.assistant.name: {
                "name": self.assistant.name, "createdAt": "2026-07-01T10:00:00Z", "provider": "nvidia-prod", "model": "nvidia/recorded",
                "policies": ["npm", "pypi"], "agent": None, "agentVersion": "2026.6.10", "openshellDriver": "docker",
                "gatewayName": self.gateway, "gatewayPort": self.port,
            },
        }  # fmt: skip
        for pod in self.pods:
            rows[pod.name] = {"name": pod.name, "model": "nvidia/old", "provider": "nvidia", "gatewayPort": self.old_port}
        self.registry = self.home / ".nemoclaw/sandboxes.json"
        self.registers(rows)
        said = [{"name": name, "model": "nvidia/said", "provider": "nvidia-prod", "policies": ["npm"], "agent": None} for name in rows]
        listing = json.dumps({"schemaVersion": 1, "defaultSandbox": self.assistant.name, "sandboxes": said}).encode()
        for verb in ("list", "status"):
            self.nemoclaw.says(verb, listing)
        for row in said:
            status = {**row, "schemaVersion": 1, "found": True, "phase": "Ready", "gatewayState": "present", "openshellDriver": "vm"}
            self.nemoclaw.says("name-status:%s" % row["name"], json.dumps(status).encode())

    def registers(self, rows: dict[str, Any]) -> None:
        default = self.assistant.name if self.assistant.name in rows else None
        self.registry.write_text(json.dumps({"sandboxes": rows, "defaultSandbox": default}))

    def _process(self) -> None:
        program = self.home / ".local/bin/openshell-gateway"
        program.write_text(GATEWAY % (sys.executable, self.port))
        program.chmod(0o755)
        self.process = subprocess.Popen([str(program)], stdin=subprocess.DEVNULL)
        self._cleanup.callback(self.end_gateway)
        until(lambda: (":%04X " % self.port) in Path("/proc/%d/net/tcp" % self.process.pid).read_text(), what="gateway process")

    def end_gateway(self) -> None:
        self.process.kill()
        self.process.wait()

    def end_pods(self) -> None:
        for pod in self.pods:
            os.kill(pod.pid, signal.SIGKILL)
        until(lambda: not any(Path("/proc/%d" % pod.pid).exists() for pod in self.pods), what="end of the pods")

    def end_proxy(self) -> None:
        self.assistant.sh("killall httpd", user="0")

    def writes(self) -> str:
        return self.openshell.writes() + self.nemoclaw.writes() + self.node.writes()
