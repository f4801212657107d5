# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S1 to S8: whatever root in a sandbox plants, nothing outside of the sandbox is read, and its neighbours still arrive."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync import kernel
from clawmetry_sync.errors import Refused, Unreadable
from clawmetry_sync.read import opener, procroot
from clawmetry_sync.read.opener import HeldDir
from support.canary import Canary
from support.ingest import Ingest, Source, canonical
from support.node import PreparedDaemon, until
from support.sandbox import STATE, Sandbox, openshell_0_0_72
from support.tree import numbered

WALK = "from clawmetry_sync.read import opener; opener._have_openat2 = False"

# Agent name -> what root does in its sessions directory ($c: the canary's path, $d: its directory, both of the host).
IN_SESSIONS = {
    "s1-link-absolute": 'ln -s "$c" x.jsonl',
    "s1-link-relative": 'ln -s "../../../../../../../../../../../../../..$c" x.jsonl',
    "s1-link-to-link": 'ln -s "$c" y; ln -s y x.jsonl; ln -s x.jsonl z.jsonl',
    "s1-link-reset": 'ln -s "$c" x.jsonl.reset.2026-11-21T19-43-04.582Z; ln -s "$c" y.jsonl.bak.1; ln -s "$c" z.jsonl.deleted.1',
    "s1-link-index": 'ln -s "$c" sessions.json; ln -s sessions.json x.jsonl',
    "s1-link-below-proc": 'ln -s "/proc/self/root$c" x.jsonl; ln -s "/proc/1/root$c" y.jsonl',
    "s3-dots": 'mkdir "...jsonl" "..jsonl"; ln -s "$c" "..x.jsonl"; ln -s ../../../../../../../.. up.jsonl',
    "s5-environ": "ln -s /proc/self/environ x.jsonl; ln -s /proc/1/environ y.jsonl; ln -s /proc/self/cmdline z.jsonl",
    "s5-descriptors": 'for n in 0 1 2 3 4 5 6 7 8 9 10 11 12; do ln -s "/proc/self/fd/$n" "$n.jsonl"; done; ln -s /dev/stdin stdin.jsonl',
    "s6-fifo": "mkfifo x.jsonl; mkfifo sessions.json; mkfifo y.jsonl.bak.1",
    "s6-directory": "mkdir -p x.jsonl/y.jsonl; mkdir sessions.json",
    "s6-socket": ": # made from the host: busybox cannot",
    "s7-zero": "mknod x.jsonl c 1 5; mknod sessions.json c 1 5",
    "s7-kmsg": "mknod x.jsonl c 1 11",
    "s7-memory": "mknod x.jsonl c 1 1; mknod y.jsonl c 1 4",
    "s7-terminal": "mknod x.jsonl c 5 0; mknod y.jsonl c 10 200",
    "s7-disk": "mknod x.jsonl b 8 0; mknod y.jsonl b 254 0; mknod z.jsonl b 7 0",
    "s8-hard-link": "echo '{\"linked\":1}' >/tmp/linked; ln /tmp/linked x.jsonl",
}
# Whole directories replaced ($a: the agent's directory).
IN_PLACE_OF_DIRECTORIES = {
    "s2-sessions": 'ln -s "$d" "$a/sessions"',
    "s2-agent": 'ln -s "$d" "$a"',
    "s2-relative": 'ln -s "../../../../../../../../../../..$d" "$a/sessions"',
    "s2-own": 'mkdir -p /tmp/own; echo \'{"own":1}\' >/tmp/own/x.jsonl; ln -s /tmp/own "$a/sessions"',
    "s5-root": 'ln -s "/proc/self/root$d" "$a/sessions"',
    "s5-cwd": 'ln -s /proc/self/cwd "$a/sessions"',
    "s5-task": 'ln -s /proc/self/task "$a/sessions"',
    "s6-file": 'echo x >"$a/sessions"',
    "s6-pipe": 'mkfifo "$a/sessions"',
    "s8-bind-mount": 'ln -s /shared "$a/sessions"',
}
# In the workspace: memory files.
IN_WORKSPACE = (
    'ln -s "$c" SOUL.md; ln -s "/proc/self/root$c" USER.md; ln -s /proc/self/environ TOOLS.md; mkfifo AGENTS.md; mknod BOOT.md c 1 5; '
    'mkdir IDENTITY.md; ln /tmp/linked HEARTBEAT.md; mkdir -p memory; ln -s "$c" memory/2026-11-20.md; mkfifo memory/2026-11-19.md; '
    "echo '# Memory' >MEMORY.md; echo '- fine' >memory/2026-11-21.md"
)
OTHER_WORKSPACES = 'ln -s "$d" workspace-linked; mkdir workspace-days; ln -s "$d" workspace-days/memory'


@dataclass
class Outcome:
    canary: Canary
    ingest: Ingest
    daemon: PreparedDaemon
    status: Any
    facts: bytes
    shown: bytes


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Canary:
    made = Canary(tmp_path_factory.mktemp("host") / "private")
    # Names that would be taken for transcripts and memory if the directory itself were entered.
    for name in ("x.jsonl", "MEMORY.md", "2026-11-21.md", "sessions.json"):
        made.path.with_name(name).write_bytes(made.path.read_bytes())
    (made.path.parent / "sessions").mkdir()
    (made.path.parent / "sessions" / "x.jsonl").write_bytes(made.path.read_bytes())
    return made


@pytest.fixture(scope="module")
def hostile(canary: Canary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox whose root has planted everything; a directory and a file of the host are mounted in it."""
    sessions = "%s/agents/s8-file-mount/sessions" % STATE
    options = ["-v", "%s:/shared" % canary.path.parent, "-v", "%s:%s/y.jsonl:ro" % (canary.path, sessions)]
    options += ["-v", "%s:%s/workspace/BOOTSTRAP.md:ro" % (canary.path, STATE)]
    with openshell_0_0_72("reach-hostile", options=options) as sandbox:
        given = (str(canary.path), str(canary.path.parent), STATE)
        script = "set -e; c=$1; d=$2; umask 022; mkdir -p $3/agents $3/workspace; cd $3\n"
        for agent, plant in IN_SESSIONS.items():
            script += "mkdir -p $3/agents/%s/sessions; cd $3/agents/%s/sessions; %s\n" % (agent, agent, plant)
        for agent, plant in IN_PLACE_OF_DIRECTORIES.items():
            making = "" if agent == "s2-agent" else "mkdir -p $a; "
            script += "a=$3/agents/%s; %s%s\n" % (agent, making, plant)
        script += "cd $3/workspace; %s\ncd $3; %s\n" % (IN_WORKSPACE, OTHER_WORKSPACES)
        # Another state directory, and a whole home, that are links out.
        script += 'ln -s "$d" /sandbox/.openclaw-data; ln -s "$d" /sandbox/.openclaw-profile; mkdir -p /home; ln -s "$d" /home/visitor\n'
        sandbox.sh(script, *given, user="0")
        place = Path("/proc/%d/root%s/agents/s6-socket/sessions" % (sandbox.pid, STATE))
        here = os.getcwd()
        os.chdir(place)
        try:
            for name in ("x.jsonl", "sessions.json"):
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(name)
        finally:
            os.chdir(here)
        for number, agent in enumerate([*IN_SESSIONS, "s8-file-mount"]):
            sandbox.sh('cat >"$1"', "%s/agents/%s/sessions/honest.jsonl" % (STATE, agent), stdin=line(number), user="0")
        yield sandbox


def line(number: int) -> bytes:
    return canonical(numbered(number)).encode() + b"\n"


@pytest.fixture(scope="module", params=["openat2", "walk"])
def outcome(
    request: pytest.FixtureRequest, hostile: Sandbox, canary: Canary, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    """What a daemon made of it, with the kernel's path resolution and with the component walk."""
    directory = tmp_path_factory.mktemp(request.param)
    with Ingest() as ingest:
        canary.watch(ingest)
        daemon = PreparedDaemon(directory, ingest_url=ingest.url, sandboxes={"include": [hostile.name]}, snapshot_interval=1)
        daemon.prelude = WALK if request.param == "walk" else ""
        daemon.start(env={"CLAWMETRY_TEST_CANARY": canary.text}, arguments=("--log-level", "debug", "run"))
        try:
            ingest.wait_events(len(IN_SESSIONS) + 1)
            ingest.wait(lambda me: bool(me.memory) and len(me.snapshots) >= 2, what="memory and snapshots")
            passes = daemon.status()["passes"]
            until(lambda: daemon.status()["passes"] > passes + 10, what="ten more passes")
            yield Outcome(canary, ingest, daemon, daemon.status(), daemon.cli("snapshot", "--json").stdout, daemon.cli("status").stdout)
        finally:
            daemon.kill()


def test_s1_s8_the_canary_is_nowhere(outcome: Outcome) -> None:
    outcome.ingest.check()
    canary = outcome.canary
    canary.is_nowhere(outcome.daemon.state_dir, outcome.daemon.log_file)
    canary.is_not_in(outcome.status, outcome.facts, outcome.shown, outcome.ingest.sessions, outcome.ingest.heartbeats)


@pytest.mark.parametrize("agent", [*IN_SESSIONS, *IN_PLACE_OF_DIRECTORIES, "s8-file-mount"])
def test_s1_s8_only_the_honest_file_of_an_agent_arrives(outcome: Outcome, hostile: Sandbox, agent: str) -> None:
    found = {name: events for (source, name), events in outcome.ingest.events.items() if source.agent == agent}
    agents = [*IN_SESSIONS, "s8-file-mount"]
    wanted = {"honest.jsonl": [canonical(numbered(agents.index(agent)))]} if agent in agents else {}
    assert found == wanted
    assert all(source == Source(hostile.name, "nemoclaw", source.agent) for source, _name in outcome.ingest.events)


def test_s1_s8_nothing_is_read_twice_and_nothing_is_quarantined(outcome: Outcome) -> None:
    assert outcome.ingest.duplicate_events == 0
    assert outcome.status["quarantined"] == 0
    assert outcome.status["dead_letters"] == 0


def test_s1_s8_only_honest_memory_arrives(outcome: Outcome) -> None:
    for upload in outcome.ingest.memory:
        assert {entry["path"]: entry["content"] for entry in upload["memory_content"]} == {
            "MEMORY.md": "# Memory\n",
            "memory/2026-11-21.md": "- fine\n",
        }


def test_s6_nothing_that_blocks_holds_up_a_pass(outcome: Outcome) -> None:
    """FIFOs, sockets and terminals are there in each pass; the loop goes on and answers."""
    before = outcome.daemon.status()["passes"]
    until(lambda: outcome.daemon.status()["passes"] > before + 5, 10, "five passes")


def test_s1_s8_what_is_refused_is_told_once(outcome: Outcome) -> None:
    problems = outcome.status["problems"][outcome.status["sandboxes"][0]["name"]]
    assert any("x.jsonl" in label for label in problems)
    # A refusal is a state, not an event of each pass.
    lines = outcome.daemon.log().splitlines()
    assert max(lines.count(text) for text in {text.split(" ", 1)[-1] for text in lines}) <= 3


def footprint(sandbox: Sandbox) -> list[bytes]:
    """Return name, mode, inode, size and times of all there is; access times of files only, a listing may change a directory's."""
    found = sandbox.sh("find /sandbox /tmp /home -type f -exec stat -c '%n %f %i %s %X %Y %Z' {} +", user="0")
    found += sandbox.sh("find /sandbox /tmp /home ! -type f -exec stat -c '%n %f %i %s %Y %Z' {} +", user="0")
    return sorted(found.split(b"\n"))


def test_s1_s8_no_trace_is_left_in_the_sandbox(hostile: Sandbox, tmp_path: Path) -> None:
    before = footprint(hostile)
    with Ingest() as ingest:
        daemon = PreparedDaemon(tmp_path / "node", ingest_url=ingest.url, sandboxes={"include": [hostile.name]})
        assert daemon.json("sync")["events"] == len(IN_SESSIONS) + 1
    assert footprint(hostile) == before


def test_the_plants_bite_a_careless_reader(hostile: Sandbox, canary: Canary) -> None:
    """Opened by name below /proc/<pid>/root, as one would do first, they lead to the canary: else nothing was tested."""
    agents = "/proc/%d/root%s/agents/" % (hostile.pid, STATE)
    for path in (
        "s1-link-absolute/sessions/x.jsonl",
        "s2-sessions/sessions/x.jsonl",
        "s5-root/sessions/x.jsonl",
        "s8-file-mount/sessions/y.jsonl",
    ):
        with open(agents + path, "rb") as stream:
            assert canary.needle in stream.read(), path


SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
names = [name.encode() for name in sys.argv[1:]]
while True:
    for a, b in zip(names[::2], names[1::2]):
        if libc.renameat2(-100, a, -100, b, 2):  # RENAME_EXCHANGE
            sys.exit(os.strerror(ctypes.get_errno()))
"""


@pytest.mark.parametrize(("way", "attempts"), [("openat2", 1_000_000), ("walk", 60_000)])
def test_s4_a_swap_race_never_leaks(tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch, way: str, attempts: int) -> None:
    """A file and a directory change places with links to the canary, some hundred thousand times a second."""
    monkeypatch.setattr(opener, "_have_openat2", None if way == "openat2" else False)
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "x.jsonl").write_bytes(b"honest\n")
    (root / "x.jsonl").write_bytes(b"honest\n")
    (root / "link.jsonl").symlink_to(canary.path)
    (root / "link").symlink_to(canary.path.parent)
    names = [str(root / name) for name in ("x.jsonl", "link.jsonl", "real", "link")]
    opened = refused = 0
    with (
        subprocess.Popen([sys.executable, "-S", "-c", SWAP, *names], stdin=subprocess.DEVNULL) as swapper,
        HeldDir.hold(os.fsencode(root)) as held,
    ):
        try:
            for number in range(attempts):
                try:
                    fd = held.open_file(b"x.jsonl" if number % 4 else b"real/x.jsonl")
                except (Refused, Unreadable, FileNotFoundError):
                    refused += 1
                    continue
                opened += 1
                data = os.read(fd, 4096)
                os.close(fd)
                if data != b"honest\n":
                    pytest.fail("leaked at attempt %d: %r" % (number, data[:40]))
            assert swapper.poll() is None, "nobody swapped any more"
        finally:
            swapper.kill()
    # Both sides of the race were met often, or it was none.
    assert opened > attempts // 50 and refused > attempts // 50, (opened, refused)


def test_s8_a_mounted_procfs_is_refused(canary: Canary, tmp_path: Path) -> None:
    """With CAP_SYS_ADMIN root may mount: a fresh procfs, a file of procfs, its own tmpfs. Only the last is a sandbox's file."""
    options = [
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "apparmor=unconfined",
        "--security-opt",
        "seccomp=unconfined",
        "-e",
        "INSIDE=" + canary.text,
    ]
    with openshell_0_0_72("reach-mounts", options=options) as sandbox, Ingest() as ingest:
        canary.watch(ingest)
        sandbox.sh(
            "set -e; a=$1/agents; for n in fresh bound file ours; do mkdir -p $a/$n/sessions; done; mkdir -p $1/workspace/memory; "
            "mount -t proc proc $a/fresh/sessions; mount --bind /proc/1 $a/bound/sessions; "
            ": >$a/file/sessions/x.jsonl; mount --bind /proc/1/environ $a/file/sessions/x.jsonl; "
            "mount -t proc proc $1/workspace/memory; : >$1/workspace/SOUL.md; mount --bind /proc/1/environ $1/workspace/SOUL.md; "
            "mount -t tmpfs tmpfs $a/ours/sessions; echo '{\"ours\":1}' >$a/ours/sessions/x.jsonl",
            STATE,
            user="0",
        )
        for way in ("openat2", "walk"):
            daemon = PreparedDaemon(tmp_path / way, ingest_url=ingest.url, sandboxes={"include": [sandbox.name]})
            daemon.prelude = WALK if way == "walk" else ""
            result = daemon.json("sync")
            assert result["events"] == 1, result
            canary.is_nowhere(daemon.state_dir)
        ingest.check()
        assert {source.agent for source, _name in ingest.events} == {"ours"}
        assert ingest.memory == []
        pinned = procroot.pin(sandbox.pid, "mounts")
        try:
            for path in (b"fresh/sessions", b"bound/sessions"):
                with pytest.raises(Refused, match="filesystem of type 0x9fa0"):
                    pinned.root.open_dir(b"sandbox/.openclaw/agents/" + path)
        finally:
            pinned.close()


@pytest.mark.parametrize("have", [None, False], ids=["openat2", "walk"])
def test_s8_a_single_file_mounted_into_a_directory_is_refused(hostile: Sandbox, monkeypatch: pytest.MonkeyPatch, have: Any) -> None:
    monkeypatch.setattr(opener, "_have_openat2", have)
    pinned = procroot.pin(hostile.pid, "file mount")
    try:
        path = os.fsencode(STATE.strip("/")) + b"/agents/s8-file-mount/sessions/"
        os.close(pinned.root.open_file(path + b"honest.jsonl"))
        with pytest.raises(Refused):
            pinned.root.open_file(path + b"y.jsonl")
        with pinned.root.open_dir(path) as sessions, pytest.raises(Refused):
            sessions.open_file(b"y.jsonl")
    finally:
        pinned.close()


def test_s7_a_device_is_never_opened_for_data(hostile: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every open that reaches a device of the sandbox has O_PATH: its driver never hears of it."""
    opens: list[int] = []
    real = kernel.openat2

    def spy(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
        opens.append(flags)
        return real(dir_fd, path, flags, resolve)

    monkeypatch.setattr(kernel, "openat2", spy)
    monkeypatch.setattr(opener, "_have_openat2", None)
    pinned = procroot.pin(hostile.pid, "devices")
    try:
        with pinned.root.open_dir(os.fsencode(STATE.strip("/")) + b"/agents/s7-disk/sessions") as sessions:
            opens.clear()
            for name in (b"x.jsonl", b"y.jsonl", b"z.jsonl"):
                with pytest.raises(Refused, match="block device"):
                    sessions.open_file(name)
    finally:
        pinned.close()
    assert len(opens) == 3 and all(flags & kernel.O_PATH for flags in opens)
