# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R4, R20 to R22, R26, R27: damaged state, full disks, no descriptors, signals, a second instance, and what the operator sees of it."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from support.ingest import API_KEY, EVENTS, KEY_TEXT, Fault, Ingest
from support.node import Node, Writer, until
from support.tree import dumps, numbered


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        yield node
        node.daemon.kill()


# -- R4 -------------------------------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def bits_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(8192, len(data), 8192):
        data[place] ^= 0xFF  # the type of every page but the first
    path.write_bytes(bytes(data))


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()


def no_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=0")
    db.close()


def of_another(path: Path) -> None:
    os.chown(path, 4242, 4242)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize(
    "damage",
    [empty, truncated, garbage, bits_flipped, newer, no_version, pytest.param(of_another, marks=pytest.mark.root), a_link],
    ids=lambda damage: damage.__name__,
)
def test_r4_damaged_queue_is_refused_and_left_alone(node: Node, damage: Callable[[Path], None]) -> None:
    node.append("one", 300)
    node.append("two", 5)
    node.daemon.start()
    node.arrived()
    until(lambda: node.daemon.status()["queue"]["pending"] == 0, 10, "empty outbox")
    assert node.daemon.terminate() == 0
    queue = node.daemon.state_dir / "queue.db"
    before = node.ingest.count(EVENTS)
    damage(queue)
    damaged = queue.read_bytes()
    node.append("one", 5)
    done = node.daemon.cli("run", timeout_s=20)
    assert done.returncode == 2, done.stderr
    text = done.stderr.decode()
    assert "queue.db" in text and "Traceback" not in text
    assert node.daemon.cli("sync", timeout_s=20).returncode == 2
    assert node.daemon.cli("status").returncode == 2
    assert node.ingest.count(EVENTS) == before, "it started over in silence"
    if damage is not newer:
        assert queue.read_bytes() == damaged


def test_r4_no_key_no_upload(node: Node) -> None:
    node.append("one", 5)
    (node.daemon.directory / "encryption_key").unlink()
    done = node.daemon.cli("run", timeout_s=20)
    assert done.returncode == 2 and b"encryption key" in done.stderr and b"keygen" in done.stderr
    assert not node.ingest.requests


# -- R20 ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state directory on its own 4 MB file system."""
    state = tmp_path / "disk"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(state)], check=True)
    try:
        yield state
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def offsets(node: Node) -> dict[str, int]:
    return {source["file"]: source["offset"] for source in node.daemon.status()["sources"]}


@pytest.mark.root
def test_r20_full_disk(tmp_path: Path, small_disk: Path) -> None:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest, state_dir=str(small_disk / "state"))
        node.daemon.state_dir = small_disk / "state"
        node.daemon.prelude = "from clawmetry_sync import daemon\ndaemon.TROUBLE_PAUSE_S = 0.3\n"
        node.append("one", 10)
        node.daemon.start()
        node.arrived()
        until(lambda: node.daemon.status()["queue"]["pending"] == 0, 10, "empty outbox")
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as stream, pytest.raises(OSError):
            while True:
                stream.write(b"x" * 4096)
        node.append("one", 500, 1000)
        until(lambda: node.daemon.status()["trouble"], 10, "trouble")
        before = offsets(node)
        time.sleep(2)
        assert offsets(node) == before, "a cursor moved on a full disk"
        status = node.daemon.status()
        assert status["state"] == "degraded" and "full" in status["trouble"]
        assert node.daemon.log().count("is full") <= 3, "said over and over"
        # A restart on the full disk: it may refuse, it may wait, it may not lose anything.
        node.daemon.kill()
        done = node.daemon.cli("check-config")
        assert done.returncode == 0
        node.daemon.start(wait_s=0)
        time.sleep(1.5)
        assert "Traceback" not in node.daemon.log(), node.daemon.log()
        filler.unlink()
        if node.daemon.process is None or node.daemon.process.poll() is not None:
            node.daemon.kill()
            node.daemon.start()
        node.arrived()
        until(lambda: node.daemon.status()["state"] == "ok", 10, "recovery")
        node.daemon.kill()


@pytest.mark.root
def test_r20_read_only_state(tmp_path: Path, small_disk: Path) -> None:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest, state_dir=str(small_disk))
        node.daemon.state_dir = small_disk
        node.daemon.prelude = "from clawmetry_sync import daemon\ndaemon.TROUBLE_PAUSE_S = 0.3\n"
        node.append("one", 10)
        node.daemon.start()
        node.arrived()
        node.daemon.kill()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        node.append("one", 10)
        done = node.daemon.cli("run", timeout_s=20)
        assert done.returncode == 2 and b"Traceback" not in done.stderr, done.stderr
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        node.daemon.start()
        node.arrived()
        node.daemon.kill()


def test_r20_no_descriptors_left(node: Node) -> None:
    """EMFILE from one moment to the next, for a while: no crash, no cursor moves, then everything arrives."""
    for number in range(40):
        node.append("file-%d" % number, 3)
    node.daemon.prelude = "from clawmetry_sync import daemon\ndaemon.TROUBLE_PAUSE_S = 0.3\n"
    node.daemon.start()
    node.arrived()
    process = node.daemon.process
    assert process is not None
    limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    for number in range(40):
        node.append("file-%d" % number, 3)
    time.sleep(3)
    assert process.poll() is None, node.daemon.log()
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
    node.arrived()
    until(lambda: node.daemon.status()["state"] == "ok", 15, "recovery")
    log = node.daemon.log()
    assert "Traceback" not in log and log.count("\n") < 40, log
    node.no_more(0.2)


def test_r20_a_look_without_descriptors_lets_go_of_nothing_and_renames_nothing(node: Node) -> None:
    """What cannot be opened for our own want of descriptors is not gone, and its owner not nameless: such a look does not count."""
    node.append("file", 3)
    node.daemon.prelude = "from clawmetry_sync import daemon, finder\ndaemon.TROUBLE_PAUSE_S = finder.DISCOVERY_INTERVAL_S = 0.01\n"
    node.daemon.start()
    node.arrived()
    process = node.daemon.process
    assert process is not None
    limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    for _round in range(20):
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        time.sleep(0.1)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        node.append("file", 1)
        time.sleep(0.1)
    node.arrived()
    assert len(node.ingest.events) == 1, list(node.ingest.events)
    log = node.daemon.log()
    assert "sandbox-released" not in log and log.count("event=sandbox ") == 1, log


BAD_START = """
import errno
from clawmetry_sync import cli, control, daemon, wake
cli.RESTART_PAUSE_S = 0.2
lives = [0]
def failing(owner, name, when):
    real = getattr(owner, name)
    def wrapped(*a, **k):
        lives[0] += name == "__init__" and owner is wake.Wake
        if lives[0] == when:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*a, **k)
    setattr(owner, name, wrapped)
failing(wake.Wake, "__init__", 2)
failing(daemon, "make_target", 3)
failing(control.Server, "__init__", 4)
"""


def test_r20_reload_that_finds_no_descriptors_is_tried_again(node: Node) -> None:
    """The configuration is fine, the host is not: three starts fail, each at another place; nothing is held, nothing lost."""
    node.daemon.prelude = BAD_START
    node.append("one", 5)
    node.daemon.start()
    node.arrived()
    process = node.daemon.process
    assert process is not None
    node.daemon.signal(signal.SIGHUP)
    until(lambda: node.daemon.log().count("restart-failed") == 3, 20, "three failures")
    node.append("one", 5)
    node.arrived()
    assert process.poll() is None and "Traceback" not in node.daemon.log()
    until(lambda: node.daemon.status()["state"] == "ok", 10, "recovery")
    # While it waits, SIGTERM is heeded.
    assert node.daemon.terminate() == 0


# -- R21, R22 -------------------------------------------------------------------------------------------------------------


def test_r21_sigterm_flushes_and_nothing_comes_twice(node: Node) -> None:
    with Writer(node, ["one", "two"]):
        for _life in range(4):
            node.daemon.start()
            time.sleep(0.7)
            began = time.monotonic()
            assert node.daemon.terminate() == 0
            assert time.monotonic() - began < 10
    node.daemon.start()
    node.arrived()
    assert node.daemon.terminate() == 0
    assert node.ingest.duplicate_events == 0
    assert "Traceback" not in node.daemon.log()


def test_r21_sigterm_ships_what_is_queued(node: Node) -> None:
    """Slow answers: what is in the outbox when the signal comes is delivered before it leaves."""
    node.ingest.policy = lambda request: Fault(delay_s=0.3) if request.endpoint == EVENTS else None
    node.append("one", 1500)
    node.daemon.start()
    until(lambda: node.daemon.status()["queue"]["pending"] >= 4, 10, "a queue")
    assert node.daemon.terminate() == 0
    node.exact()


def test_r21_sigterm_while_the_ingest_hangs(node: Node) -> None:
    node.append("one", 5)
    node.ingest.script(EVENTS, Fault(delay_s=25, drop="after"))
    node.daemon.start()
    node.ingest.wait(lambda me: me.count(EVENTS) == 1, 10, "hanging request")
    began = time.monotonic()
    assert node.daemon.terminate() == 0
    took = time.monotonic() - began
    print("R21: SIGTERM with a hanging ingest: %.1f s" % took)
    assert took < 10
    node.daemon.start()
    node.arrived()


def test_r21_second_sigterm_leaves_at_once(node: Node) -> None:
    node.append("one", 5)
    node.ingest.script(EVENTS, Fault(delay_s=25, drop="after"))
    node.daemon.start()
    node.ingest.wait(lambda me: me.count(EVENTS) == 1, 10, "hanging request")
    node.daemon.signal(signal.SIGTERM)
    time.sleep(0.5)
    began = time.monotonic()
    node.daemon.terminate()
    assert time.monotonic() - began < 2


def test_r21_sighup_takes_the_new_configuration_without_loss(node: Node) -> None:
    node.append("one", 5)
    node.daemon.start()
    node.arrived()
    process = node.daemon.process
    assert process is not None
    with Ingest() as other, Writer(node, ["one"]):
        node.daemon.config["ingest_url"] = other.url
        node.daemon.write_config()
        node.daemon.signal(signal.SIGHUP)
        other.wait_events(100, 20)
        # A configuration that is no good is refused; the one in force stays.
        node.daemon.config_file.write_text("ingest_ulr: x\n")
        node.daemon.signal(signal.SIGHUP)
        until(lambda: "reload-refused" in node.daemon.log(), 10, "refusal")
        assert "did you mean ingest_url" in node.daemon.log()
        # So is one whose key file is gone.
        node.daemon.write_config()
        key = node.daemon.directory / "encryption_key"
        key.rename(key.with_suffix(".away"))
        node.daemon.signal(signal.SIGHUP)
        until(lambda: node.daemon.log().count("reload-refused") == 2, 10, "second refusal")
        key.with_suffix(".away").rename(key)
        other.wait_events(400, 20)
        node.daemon.config["ingest_url"] = node.ingest.url
        node.daemon.write_config()
        node.daemon.signal(signal.SIGHUP)
        until(lambda: node.ingest.count(EVENTS) > 1, 20, "return")
        assert process.poll() is None
    until(lambda: len(node.ingest.all_events()) + len(other.all_events()) >= node.expected_events, 20, "all")
    other.check()
    received = node.received()["one.jsonl"]
    assert [*received[:5], *[event for events in other.events.values() for event in events], *received[5:]] == node.expected["one.jsonl"]


def test_r21_sigterm_during_a_reload_exits_0(node: Node) -> None:
    node.ingest.policy = lambda request: Fault(delay_s=1.0) if request.endpoint == EVENTS else None
    node.append("one", 600)
    node.daemon.start()
    node.ingest.wait(lambda me: me.count(EVENTS) >= 1, 10, "a request")
    node.daemon.signal(signal.SIGHUP)
    time.sleep(0.3)
    assert node.daemon.terminate() == 0
    node.ingest.policy = None
    node.daemon.start()
    node.arrived()


def test_r22_second_instance_says_so_and_leaves(node: Node) -> None:
    node.append("one", 5)
    node.daemon.start()
    node.arrived()
    done = node.daemon.cli("run", timeout_s=10)
    assert done.returncode == 2
    assert b"another clawmetry" in done.stderr and str(node.daemon.process and node.daemon.process.pid).encode() in done.stderr
    node.append("one", 5)
    node.arrived()
    assert node.daemon.status()["state"] == "ok"
    # The lock goes with the process, whatever it died of.
    node.daemon.kill()
    with open(node.daemon.state_dir / "lock", "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_UN)
    node.daemon.start()


# -- R26, R27 -------------------------------------------------------------------------------------------------------------


def test_r26_status_shows_each_source(node: Node) -> None:
    node.append("one", 10)
    node.daemon.start()
    node.arrived()
    until(lambda: node.daemon.status()["queue"]["pending"] == 0, 10, "empty outbox")
    done = node.daemon.cli("status")
    assert done.returncode == 0 and done.stdout.startswith(b"ok")
    status = node.daemon.status()
    (source,) = status["sources"]
    size = node.path("one").stat().st_size
    assert (source["file"], source["offset"], source["size"], source["lag_bytes"], source["lag_s"]) == ("one.jsonl", size, size, 0, 0)
    assert (source["records"], source["quarantined"], source["pending"], source["retries"], source["generation"]) == (10, 0, 0, 0, 0)
    assert abs(source["last_ack"] - time.time()) < 60 and abs(status["target"]["last_ack"] - time.time()) < 60
    mode = (node.daemon.state_dir / "status.sock").stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    # Two cycles after the ingest is gone, the fields say so.
    node.ingest.stop()
    node.append("one", 10)
    status = until(lambda: (now := node.daemon.status()) and now["target"]["state"] == "retrying" and now, 10, "retrying")
    assert status["state"] == "degraded" and status["target"]["reason"] and node.daemon.cli("status").returncode == 1
    status = until(lambda: (now := node.daemon.status()) and now["sources"][0]["retries"] and now, 10, "retries of the source")
    (source,) = status["sources"]
    assert source["pending"] == 1 and source["lag_s"] > 0
    assert status["queue"]["pending"] == 1 and status["queue"]["oldest_pending_s"] > 0
    # A rewrite shows as a generation, poison as a count.
    node.ingest.start()
    node.write("one", b"".join(node.lines("one", 1)), mode="wb")
    node.write("one", b"not json\n")
    node.arrived()
    (source,) = until(lambda: (now := node.daemon.status()) and now["sources"][0]["quarantined"] and now, 10, "quarantine")["sources"]
    assert source["generation"] == 1 and source["quarantined"] == 1
    node.daemon.kill()
    done = node.daemon.cli("status", "--json")
    assert done.returncode == 2 and b'"down"' in done.stdout
    status = node.daemon.status()
    assert status["state"] == "down" and status["sources"][0]["offset"] == node.path("one").stat().st_size
    for secret in (KEY_TEXT, API_KEY):
        assert secret not in node.daemon.log() and secret.encode() not in done.stdout


def test_r26_unreadable_source_is_named(node: Node) -> None:
    """Something that is no transcript under a transcript's name: shown, and nothing else suffers."""
    node.append("one", 1)
    os.mkfifo(node.path("fifo"))
    node.path("link").symlink_to("/etc/passwd")
    node.daemon.start()
    node.arrived()
    status = until(lambda: (now := node.daemon.status()) and now["problems"] and now, 10, "problem")
    assert set(next(iter(status["problems"].values()))) == {"fifo.jsonl", "link.jsonl"}
    assert status["state"] == "degraded"
    node.path("fifo").unlink()
    node.path("link").unlink()
    until(lambda: node.daemon.status()["state"] == "ok", 20, "recovery")


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"poll_intervall": 1}, "poll_interval"),
    "http to another host": ({"ingest_url": "http://ingest.example.com"}, "loopback"),
    "not a number": ({"poll_interval": "often"}, "poll_interval"),
    "too small": ({"queue_max_bytes": 5}, "queue_max_bytes"),
    "relative path": ({"state_dir": "state"}, "absolute"),
    "unknown runtime": ({"discover": ["nemoclaww"]}, "nemoclaw"),
    "no such key file": ({"encryption_key_file": "/nonexistent/key"}, "encryption key"),
    "no such api key": ({"api_key_file": "/nonexistent/key"}, "API key"),
    "no such CA": ({"ingest_url": "https://127.0.0.1:1", "ca_file": "/nonexistent/ca.pem"}, "ca_file"),
    "credentials in the URL": ({"ingest_url": "https://u:p@ingest.example.com"}, "password"),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_r27_check_config_catches_what_would_fail_at_start(node: Node, kind: str) -> None:
    change, told = BAD_CONFIGS[kind]
    node.daemon.config.update(change)
    node.daemon.write_config()
    for verb in ("check-config", "run"):
        done = node.daemon.cli(verb, timeout_s=20)
        assert done.returncode == 2 and told in done.stderr.decode() and "Traceback" not in done.stderr.decode(), done.stderr
    assert not node.ingest.requests and not node.daemon.state_dir.exists()


@pytest.mark.parametrize("name", ["encryption_key", "api_key"])
def test_r27_check_config_wants_private_keys(node: Node, name: str) -> None:
    (node.daemon.directory / name).chmod(0o640)
    done = node.daemon.cli("check-config")
    assert done.returncode == 2 and b"open to others" in done.stderr


def test_r27_check_config_of_a_good_one_sends_nothing(node: Node) -> None:
    node.append("one", 1)
    done = node.daemon.cli("check-config")
    assert done.returncode == 0 and b"fine" in done.stderr and not done.stdout
    assert not node.ingest.requests and not node.daemon.state_dir.exists()


def test_r6_lines_written_in_pieces_of_one_byte(node: Node) -> None:
    """Not a second of rest for half a line: only what ends is sent."""
    node.daemon.start()
    for number in range(3):
        for byte in dumps(numbered(number)):
            node.write("one", bytes([byte]))
            time.sleep(0.002)
    node.expect("one", *(numbered(number) for number in range(3)))
    node.arrived()
    node.no_more(0.3)
