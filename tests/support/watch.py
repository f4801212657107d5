# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""While something runs on a host of the tests: is a secret in the arguments or the environment of any process there?"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from support.sandbox import docker

# Looks for secrets in every command line and environment for as long as a run takes; of itself it shows nothing.
WATCH = r"""
import glob, os, sys, time
needles = [open(name, "rb").read().strip() for name in sys.argv[1:]]
assert all(len(needle) > 20 for needle in needles)
print("watching", flush=True)
rounds = 0
while not os.path.exists("/run/watched"):
    rounds += 1
    time.sleep(0.02)
    for name in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(name, "rb") as stream:
                data = stream.read()
        except OSError:
            continue
        if any(needle in data for needle in needles):
            print("SEEN in", name, data.replace(b"\0", b" ")[:60], flush=True)
print("rounds", rounds, flush=True)
"""


@contextlib.contextmanager
def watched(host: str, *files: str) -> Iterator[None]:
    """While this lasts, no secret of FILES (on the host, a container's id) is in the arguments or the environment of any process."""
    docker("exec", host, "rm", "-f", "/run/watched")
    argv = ["docker", "exec", "-i", host, "python3", "-Ic", WATCH, *files]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        try:
            yield
        finally:
            docker("exec", host, "touch", "/run/watched")
            seen = watcher.stdout.read()
    assert "SEEN" not in seen, seen
    assert int(seen.split()[-1]) > 20, "it looked too seldom: %s" % seen
