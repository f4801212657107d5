# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A connection through ``docker exec``, so that the scenarios need no collection but ours."""

from __future__ import annotations

import shlex
import subprocess

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase, ensure_connect

DOCUMENTATION = r"""
name: docker_exec
short_description: Run tasks in a container of the local Docker engine
description:
  - Runs each command with C(docker exec -i) as root.
author: ClawMetry sync contributors (@clawmetry)
version_added: 0.1.0
options:
  remote_addr:
    description: Name of the container.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
"""


class Connection(ConnectionBase):
    """One short ``docker exec`` per command; nothing to connect or close."""

    transport = "docker_exec"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _docker(self, command: str, data: bytes) -> tuple[int, bytes, bytes]:
        argv = ["docker", "exec", "-i", self.get_option("remote_addr"), "/bin/sh", "-c", command]
        done = subprocess.run(argv, input=data, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    @ensure_connect
    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._docker(cmd, in_data or b"")

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        with open(in_path, "rb") as stream:
            rc, _out, err = self._docker("cat > %s" % shlex.quote(out_path), stream.read())
        if rc:
            raise AnsibleConnectionFailure("cannot write %s: %s" % (out_path, err.decode("utf-8", "replace")))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        rc, out, err = self._docker("cat %s" % shlex.quote(in_path), b"")
        if rc:
            raise AnsibleConnectionFailure("cannot read %s: %s" % (in_path, err.decode("utf-8", "replace")))
        with open(out_path, "wb") as stream:
            stream.write(out)

    def close(self) -> None:
        self._connected = False
