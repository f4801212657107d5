# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S19, S30: nothing of a sandbox is loaded by what reads its database, and nothing is installed that was not pinned by its hash."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.agentdb import NAME, SCHEMA, AgentDatabase
from support.daemon import ENGINE, ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
# What a process that has changed its root may be lured into: the dynamic loader, NSS, locales, time zones, Python itself.
BAIT = (
    "etc/ld.so.preload",
    "etc/ld.so.cache",
    "etc/nsswitch.conf",
    "etc/passwd",
    "etc/localtime",
    "lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/locale/locale-archive",
    "usr/lib/locale/C.utf8/LC_CTYPE",
    "usr/lib/python3/sitecustomize.py",
    ".openclaw/agents/main/agent/json.py",
    ".openclaw/agents/main/agent/zstandard.py",
    ".openclaw/agents/main/agent/sqlite3.py",
)
ASK = """
import importlib.util, json, os, sys
engine, home = sys.argv[1:]
spec = importlib.util.spec_from_file_location("clawmetry_sync", engine + "/__init__.py", submodule_search_locations=[engine])
sys.modules["clawmetry_sync"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from clawmetry_sync.read import sqlitestore
from clawmetry_sync.read.opener import HeldDir
path = b".openclaw/agents/main/agent/%s"
answer = sqlitestore.ask(HeldDir.hold(os.fsencode(home)), path, own_home=False, want=[sqlitestore.Want("a")])
print(len(answer.pieces[0].events), answer.pieces[0].state)
""" % NAME
OPENING = re.compile(r'^(\d+) +(openat|open|openat2|execve|execveat|memfd_create|connect)\((?:AT_FDCWD, |\d+, )?"?([^",]*)')


@pytest.mark.root
def test_s19_the_reader_of_a_database_opens_that_database_and_nothing_else(tmp_path: Path) -> None:
    """All the system calls by which something could be loaded, from the moment it stands in the sandbox's root."""
    home = tmp_path / "home"
    database = AgentDatabase(home / ".openclaw/agents/main/agent" / NAME, schema=SCHEMA)
    database.session("a")
    database.add("a", ['{"n":%d}' % number for number in range(4)])
    for bait in BAIT:
        (home / bait).parent.mkdir(parents=True, exist_ok=True)
        (home / bait).write_bytes(b"raise SystemExit(66)\n")
    log = tmp_path / "log"
    strace = ["strace", "-f", "-e", "trace=openat,open,openat2,execve,execveat,memfd_create,connect,chroot", "-o", str(log)]
    argv = [*strace, sys.executable, "-I", "-B", "-c", ASK, str(ENGINE), str(home)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False, env=ENVIRONMENT)
    assert done.stdout.split() == [b"4", b"ok"], done.stderr.decode(errors="replace")[-2000:]
    confined: set[str] = set()
    opened: list[str] = []
    for line in log.read_text(errors="replace").splitlines():
        if re.search(r' chroot\("\."\) += 0', line):
            confined.add(line.split()[0])
        match = OPENING.match(line)
        if match is not None and match.group(1) in confined:
            opened.append(os.path.basename(match.group(3)) if match.group(2).startswith("open") else match.group(2))
    assert len(confined) == 1 and opened, "no process was seen that changed its root"
    assert set(opened) <= {NAME, NAME + "-wal", NAME + "-shm"}, opened


LOCKED = ("roles/daemon/files/requirements.txt", "requirements/quickstart.txt", "requirements/tests.txt")


@pytest.mark.parametrize("name", LOCKED)
def test_s30_every_package_is_pinned_by_hash(name: str) -> None:
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    wanted = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    packages = [line for line in wanted if not line.startswith("--")]
    assert packages and not [line for line in wanted if line.startswith("--") and "index" in line]
    for line in packages:
        assert re.match(r"[A-Za-z0-9._-]+==[^ ;]+", line), line[:100]
        hashes = re.findall(r"--hash=(\w+):([0-9a-f]+)", line)
        assert hashes and all(kind == "sha256" and len(digest) == 64 for kind, digest in hashes), line[:100]


def test_s30_whatever_installs_asks_for_the_hashes() -> None:
    """Every pip that installs or fetches, in roles and scripts, does so with --require-hashes (or names one pinned version of pip)."""
    found = 0
    for folder in ("roles", "scripts", "playbooks", "plugins"):
        for path in sorted((ROOT / folder).rglob("*")):
            if not path.is_file() or path.suffix == ".pyc":
                continue
            lines = path.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                # In YAML an argument may stand on a line of its own.
                here = " ".join(part.strip(" -,[]'\"") for part in lines[max(0, number - 4) : number + 12])
                starts = re.search(r"\bpip\b['\", ]+(install|download)\b", line) or re.fullmatch(r"\s*- (install|download)", line)
                if starts and "pip" in here and not line.lstrip().startswith("#") and "pip==" not in line:
                    found += 1
                    assert "require-hashes" in here, "%s: %s" % (path.relative_to(ROOT), line.strip())
    assert found >= 4, "the places that install were not recognised"
