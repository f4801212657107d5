# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S14 to S16: names are text and nothing else, an identity cannot be borrowed, and nothing is run in a sandbox."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon
from support.ingest import Ingest, canonical
from support.sandbox import OPENCLAW_IMAGE, STATE, Sandbox, docker, openshell_0_0_72, run_container
from support.tree import dumps

# A file that would appear, here or in /, if a shell ever saw the name.
TRAPS = (Path("clawmetry-trap"), Path("/clawmetry-trap"))
NAMES = {
    "shell": b"$(touch clawmetry-trap);`touch clawmetry-trap`;touch clawmetry-trap|touch clawmetry-trap&&touch clawmetry-trap",
    "newline": b"a\nlevel=error event=forged\r\nb",
    "ansi": b"\x1b[31mred\x1b]0;title\x07\x1b[2J\x9b31m",
    "format": b"%s%n%d%(name)s{}{0.__class__}",
    "right-to-left": "\u202egpj.exe\u2066\u2069\u200f".encode(),
    "not-utf8": b"\xff\xfe\xc0\x80",
    "option": b"--help",
    "dots": b"...",
    "quotes": b"'\"\\\x00".replace(b"\x00", b""),
    "long": b"x" * 240,
    "wide": "\U0001f99e\u4e16\u754c\u2028".encode(),
    "percent": b"..%2f..%2fetc%2fpasswd",
    "blank": b" ",
}
TERMINAL = tuple(map(chr, [*range(10), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0x2028]))


def harmless(output: bytes) -> None:
    """Nothing in OUTPUT that a terminal would obey."""
    text = output.decode("utf-8", "surrogateescape")
    found = [letter for letter in text if letter in TERMINAL or "\udc80" <= letter <= "\udcff"]
    assert not found, found[:5]


def make(sandbox: Sandbox, path: bytes, content: bytes) -> None:
    """Write a file whose path is any bytes; nothing on the way here has to be able to say them."""
    script = 'p=$(cat | head -n1 | base64 -d; printf x); p=${p%x}; mkdir -p "${p%/*}"; printf %s "$1" | base64 -d >"$p"'
    sandbox.sh(script, base64.b64encode(content).decode(), stdin=base64.b64encode(path) + b"\n", user="0")


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as made:
        yield made


def test_s14_hostile_file_and_agent_names(tmp_path: Path, ingest: Ingest) -> None:
    with openshell_0_0_72("names-files") as sandbox:
        for number, (kind, name) in enumerate(NAMES.items()):
            base = STATE.encode() + b"/agents/"
            make(sandbox, base + name + b"/sessions/" + name[:200] + b".jsonl", dumps({"kind": kind, "number": number}))
            make(sandbox, base + name + b"/sessions/bad-" + name[:200] + b".jsonl", b"not json\n")
            make(
                sandbox,
                base + name + b"/sessions/sessions.json",
                json.dumps({name.decode("latin1"): {"sessionId": "a", "label": "x"}}).encode(),
            )
            make(sandbox, STATE.encode() + b"/workspace-" + name[:200] + b"/memory/" + name[:200] + b".md", kind.encode())
        docker("exec", "-u", "0", sandbox.id, "/bin/sh", "-c", "mkfifo %s/agents/--help/sessions/$(printf 'pipe\\033[1m\\n').jsonl" % STATE)
        archive = Daemon(
            tmp_path / "archive", ingest_url="file://%s" % (tmp_path / "archive" / "kept"), sandboxes={"include": [sandbox.name]}
        )
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, sandboxes={"include": [sandbox.name]}, snapshot_interval=1)
        daemon.start(arguments=("--log-level", "debug", "run"))
        try:
            ingest.wait_events(len(NAMES))
            ingest.wait(lambda me: bool(me.sessions) and bool(me.snapshots) and bool(me.memory), what="rows, snapshot, memory")
            ingest.check()
            assert sorted(json.loads(event)["kind"] for event in ingest.all_events()) == sorted(NAMES)
            # Each agent's name is its own: two that look alike when shown are still two.
            assert len({(source.agent, session) for source, session in ingest.events}) == len(NAMES)
            status = daemon.status()
            assert status["quarantined"] == len(NAMES)
            for output in (
                daemon.cli("status").stdout,
                daemon.cli("status", "--json").stdout,
                daemon.cli("snapshot").stdout,
                daemon.cli("snapshot", "--json").stdout,
                daemon.cli("doctor").stdout,
                daemon.cli("doctor", "--json").stdout,
                daemon.log_file.read_bytes(),
            ):
                harmless(output)
            assert json.loads(daemon.cli("snapshot", "--json").stdout)["sandboxes"]
            # One line an event: none begins in the middle of a name.
            assert all(" level=" in line or line.startswith("level=") for line in daemon.log_file.read_text().splitlines())
            assert "\nevent=forged" not in daemon.log_file.read_text()
        finally:
            daemon.kill()
        result = archive.json("sync")
        # What was refused is said, and nothing else went wrong.
        assert [text for text in result["errors"] if "pipe" not in text] == [], result
        for verb in (
            ("archive", "list"),
            ("archive", "list", "--json"),
            ("archive", "show"),
            ("archive", "show", "--kind", "memory"),
            ("archive", "show", "--kind", "sessions"),
            ("archive", "show", "--kind", "system-snapshot"),
        ):
            done = archive.cli(*verb)
            assert (done.returncode, done.stderr) == (0, b""), done
            harmless(done.stdout)
    assert not any(trap.exists() for trap in TRAPS)
    # No part of a sandbox's name has become a file of ours.
    for directory in (daemon.state_dir, archive.directory):
        assert all(path.name in KNOWN_FILES for path in directory.rglob("*")), sorted(directory.rglob("*"))


KNOWN_FILES = {
    "queue.db",
    "queue.db-wal",
    "queue.db-shm",
    "lock",
    "status.sock",
    "state",
    "kept",
    "archive.db",
    "archive.db-wal",
    "archive.db-shm",
}
KNOWN_FILES |= {"encryption_key", "api_key", "clawmetry.yml", "log"}


def test_s14_an_event_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    """``archive show`` prints what an agent wrote; escapes, C1 controls and direction marks stay visible text."""
    content = "\x1b[31m\x9b31m\u202e\u2028\u2066\x07\x00\x7f"
    with openshell_0_0_72("names-terminal") as sandbox:
        raw = json.dumps({"text": content, content: 1}, ensure_ascii=False).replace("\x00", "\\u0000").encode()
        make(sandbox, STATE.encode() + b"/agents/main/sessions/a.jsonl", raw + b'\n{"lone":"\\ud800"}\n')
        node = Daemon(tmp_path / "node", ingest_url="file://%s" % (tmp_path / "kept"), sandboxes={"include": [sandbox.name]})
        assert node.json("sync")["events"] == 2
        done = node.cli("archive", "show")
        assert done.returncode == 0, done
        harmless(done.stdout)
        first, second = map(json.loads, done.stdout.splitlines())
        assert first["text"] == content and second == {"lone": "\ud800"}


def labelled(container: str, name: str, sandbox_id: str, **more: str) -> Sandbox:
    labels = {"openshell.ai/managed-by": "openshell", "openshell.ai/sandbox-name": name, "openshell.ai/sandbox-id": sandbox_id, **more}
    return run_container(name, container, OPENCLAW_IMAGE, labels=labels)


def test_s14_hostile_labels(tmp_path: Path, ingest: Ingest) -> None:
    boxes: list[Sandbox] = []
    try:
        for number, (kind, raw) in enumerate(NAMES.items()):
            text = raw.decode("utf-8", "replace") * (200 if kind == "long" else 1)
            box = labelled(
                "openshell-names-%d-%d" % (time.monotonic_ns(), number),
                text,
                text,
                **{"openshell.ai/sandbox-workspace": text, "openshell.ai/forged": text},
            )
            boxes.append(box)
            make(box, STATE.encode() + b"/agents/main/sessions/a.jsonl", dumps({"kind": kind}))
        # Which of all containers are ours, we ask by what cannot be forged.
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, snapshot_interval=1)
        daemon.start(arguments=("--log-level", "debug", "run"))
        try:
            ours = {canonical({"kind": kind}) for kind in NAMES}
            ingest.wait(lambda me: ours <= set(me.all_events()), what="an event of each")
            ingest.wait(lambda me: bool(me.snapshots), what="a snapshot")
            ingest.check()
            for output in (
                daemon.cli("status").stdout,
                daemon.cli("status", "--json").stdout,
                daemon.cli("snapshot").stdout,
                daemon.cli("snapshot", "--json").stdout,
                daemon.log_file.read_bytes(),
            ):
                harmless(output)
            facts = json.loads(daemon.cli("snapshot", "--json").stdout)
            assert max(len(json.dumps(box)) for box in facts["sandboxes"]) < 20_000
            assert json.loads(json.dumps(daemon.status()))["sources"]
        finally:
            daemon.kill()
    finally:
        for box in boxes:
            box.remove()
    assert not any(trap.exists() for trap in TRAPS)


def test_s15_a_borrowed_name_borrows_nothing_else(tmp_path: Path, ingest: Ingest) -> None:
    """Two containers with the very same labels, agent and session: what each writes stays under its own id."""
    name, sandbox_id = "borrowed", "6c6f9f5e-52a4-4f3e-8d57-0f9a3a5f7b11"
    victim = labelled("openshell-borrowed-%d" % time.monotonic_ns(), name, sandbox_id)
    forger = labelled("openshell-borrowed-%d" % time.monotonic_ns(), name, sandbox_id)
    unlabelled = run_container(name, "openshell-%s-%s" % (name, sandbox_id), OPENCLAW_IMAGE)
    boxes = {"victim": victim, "forger": forger, "unlabelled": unlabelled}
    try:
        for who, box in boxes.items():
            box.append("a.jsonl", *({"who": who, "number": number} for number in range(3)))
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, sandboxes={"include": [name, unlabelled.container]})
        daemon.start()
        try:
            ingest.wait_events(9)
            forger.append("a.jsonl", {"who": "forger", "number": 3})
            # The forger goes on where the victim ended: no cursor, no hash, no session of the victim is touched.
            victim.stop()
            forger.append("a.jsonl", {"who": "forger", "number": 4})
            ingest.wait_events(11)
            ingest.check()
            seen: dict[str, list[Any]] = {}
            for request in ingest.requests:
                if request.endpoint == "/ingest/events" and request.plain is not None:
                    seen.setdefault(request.plain["source"]["sandbox.id"], []).extend(request.plain["events"])
            assert {uid: {event["who"] for event in events} for uid, events in seen.items()} == {
                "docker:" + box.id: {who} for who, box in boxes.items()
            }
            assert [len(seen["docker:" + box.id]) for box in boxes.values()] == [3, 5, 3]
            assert {source["sandbox"] for source in daemon.status()["sources"]} == {"docker:" + box.id for box in boxes.values()}
            types = {
                request.plain["source"]["sandbox.id"]: request.plain["source"]["sandbox.type"]
                for request in ingest.requests
                if request.endpoint == "/ingest/events" and request.plain
            }
            assert types["docker:" + unlabelled.id] == "docker"
        finally:
            daemon.kill()
    finally:
        for box in boxes.values():
            box.remove()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_s16_nothing_is_run_in_a_sandbox(tmp_path: Path, ingest: Ingest) -> None:
    """No exec, no namespace entered, no chroot, no ptrace: seen by strace, by the engine and by traps in the sandbox."""
    with openshell_0_0_72("names-traps") as sandbox:
        sandbox.append("a.jsonl", {"a": 1})
        sandbox.sh(
            "for n in tail cat stat ls find sqlite3 openclaw python3 node; do rm -f /bin/$n; "
            "printf '#!/bin/sh\\n: >/tmp/trapped\\n' >/bin/$n; chmod 755 /bin/$n; done",
            user="0",
        )
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, sandboxes={"include": [sandbox.name]})
        calls = tmp_path / "calls"
        began = "%.9f" % time.time()
        argv = [
            "strace",
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-o",
            str(calls),
            "-e",
            "trace=execve,execveat,setns,unshare,chroot,ptrace,pivot_root,mount",
        ]
        done = subprocess.run(
            argv + daemon._argv("sync", "--json"),
            env=daemon._environment(None),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert json.loads(done.stdout)["events"] == 1, done
        # The first is strace's own start of the engine.
        made = [line.split(None, 1)[1] for line in calls.read_text().splitlines() if "(" in line][1:]
        assert [call for call in made if not call.startswith("execve(")] == []
        assert [call for call in made if not call.rstrip().split(" = ")[-1].startswith("0") or "--version" not in call] == [], made
        assert not any(
            word in call for call in made for word in ("exec", "/proc/", "nsenter", "tail", "cat") if word != "exec" or '"exec"' in call
        )
        events = docker(
            "events", "--since", began, "--until", "%.9f" % time.time(), "--filter", "container=" + sandbox.id, "--format", "{{.Action}}"
        )
        assert not [event for event in events.decode().split("\n") if event.startswith(("exec", "cp", "attach", "archive"))]
        assert not Path("/proc/%d/root/tmp/trapped" % sandbox.pid).exists()
