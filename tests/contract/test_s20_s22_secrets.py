# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S20 to S22, S29: secrets are seen nowhere, unsafe key files start nothing, the disk holds ciphertext, the socket is ours."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.canary import Canary, everything, modes
from support.decoder import decode_key, open_blob, seal_blob
from support.ingest import EVENTS, Fault, Ingest
from support.node import Node, until

API_KEY = "cm_" + secrets.token_hex(16)
KEY_TEXT = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
KEY_FORMS = (
    KEY_TEXT,
    KEY_TEXT.rstrip("="),
    decode_key(KEY_TEXT).hex(),
    base64.b64encode(decode_key(KEY_TEXT)).decode(),
    repr(decode_key(KEY_TEXT)),
)


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest(key=KEY_TEXT, api_key=API_KEY) as made:
        made.canaries += [form.encode() for form in KEY_FORMS]
        yield made


def node_of(tmp_path: Path, ingest: Ingest, **config: Any) -> Node:
    node = Node(tmp_path, ingest, **config)
    for name, text in (("api_key", API_KEY), ("encryption_key", KEY_TEXT)):
        (node.daemon.directory / name).write_text(text + "\n")
    return node


def no_secret(what: str, data: bytes) -> None:
    for secret in (API_KEY, *KEY_FORMS):
        assert secret.encode() not in data, "a key is in %s" % what


def test_s20_keys_are_nowhere_but_in_their_files(tmp_path: Path, ingest: Ingest) -> None:
    node = node_of(tmp_path, ingest, snapshot_interval=1)
    daemon = node.daemon
    node.append("one", 5)
    ingest.script(EVENTS, Fault(status=500), Fault(drop="after"))
    daemon.start(arguments=("--log-level", "debug", "run"))
    try:
        ingest.wait_events(5, 60)
        ingest.wait(lambda me: bool(me.snapshots) and bool(me.heartbeats), what="a snapshot")
        assert daemon.process is not None
        proc = Path("/proc/%d" % daemon.process.pid)
        no_secret("argv", (proc / "cmdline").read_bytes())
        no_secret("the environment", (proc / "environ").read_bytes())
        for verb in (
            ("status",),
            ("status", "--json"),
            ("snapshot",),
            ("snapshot", "--json"),
            ("doctor",),
            ("doctor", "--json"),
            ("check-config",),
            ("sync", "--json"),
        ):
            done = daemon.cli("--log-level", "debug", *verb)
            no_secret("the output of " + " ".join(verb), done.stdout + done.stderr)
        ingest.check()
        # The API key goes into its header and, once, into the body of /auth; nowhere else.
        for request in ingest.requests:
            if request.endpoint != "/auth":
                no_secret(request.endpoint, request.body)
            no_secret("a header", repr({name: value for name, value in request.headers.items() if name != "x-api-key"}).encode())
    finally:
        daemon.kill()
    no_secret("the log", daemon.log_file.read_bytes())
    for name, data in everything((daemon.state_dir,), KEY_TEXT):
        no_secret(name, data)


def test_s20_keys_are_in_no_message_of_a_failure(tmp_path: Path, ingest: Ingest) -> None:
    """Bad keys, a refused key, an ingest that is not there, a configuration that holds a key: no message repeats it."""
    node = node_of(tmp_path, ingest)
    node.append("one", 2)
    daemon = node.daemon
    outputs: list[bytes] = []

    def collect(*verb: str, **options: Any) -> int:
        done = daemon.cli("--log-level", "debug", *verb, **options)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        outputs.append(done.stdout + done.stderr)
        return done.returncode

    key_file, api_file = daemon.directory / "encryption_key", daemon.directory / "api_key"
    ingest.policy = lambda request: Fault(status=401)
    assert collect("sync", "--timeout", "2") != 0
    ingest.stop()
    assert collect("sync", "--timeout", "2") != 0
    assert collect("archive", "push", "--to", ingest.url) == 2
    for bad in (KEY_TEXT + "\n" + KEY_TEXT, KEY_TEXT + "\x07", KEY_TEXT * 200):
        key_file.write_text(bad)
        assert collect("check-config") == 2
        assert collect("run") == 2
    key_file.write_text(KEY_TEXT)
    api_file.write_text(API_KEY + "\n" + API_KEY)
    assert collect("check-config") == 2
    # Someone wrote the key where its file's name belongs, or made it a key of its own.
    for wrong in (
        {"api_key_file": API_KEY},
        {"api_key": API_KEY},
        {"ingest_url": "https://user:%s@ingest.example" % API_KEY},
        {"proxy": "http://x:%s@" % API_KEY},
    ):
        daemon.config_file.write_text(json.dumps({**daemon.config, **wrong}))
        assert collect("check-config") == 2, wrong
    for output in outputs:
        for secret in KEY_FORMS:
            assert secret.encode() not in output, output[:500]
    # The last ones quote what is in the configuration file; that is for the operator's eyes, but a key is not.
    for output in outputs[:-4] + outputs[-3:]:
        assert API_KEY.encode() not in output, output[:500]


@pytest.mark.parametrize("name", ["encryption_key", "api_key"])
@pytest.mark.parametrize("change", ["group", "others", "link", "directory", "parent", "owner", "empty", "fifo"])
def test_s21_an_unsafe_key_file_starts_nothing(tmp_path: Path, ingest: Ingest, name: str, change: str) -> None:
    node = node_of(tmp_path, ingest)
    node.append("one", 1)
    path = node.daemon.directory / name
    text = path.read_text()
    if change == "group":
        path.chmod(0o640)
    elif change == "others":
        path.chmod(0o604)
    elif change == "parent":
        node.daemon.directory.chmod(0o777)
    elif change == "owner":
        os.chown(path, 12345, 12345)
    elif change == "empty":
        path.write_text("")
    else:
        path.unlink()
        if change == "link":
            path.with_name("elsewhere").touch(mode=0o600)
            path.with_name("elsewhere").write_text(text)
            path.symlink_to("elsewhere")
        elif change == "directory":
            path.mkdir(mode=0o700)
        else:
            os.mkfifo(path, 0o600)
    for verb in (("run",), ("sync", "--json"), ("check-config",)):
        done = node.daemon.cli(*verb, timeout_s=20)
        assert done.returncode == 2, (verb, done)
        assert b"Traceback" not in done.stderr
        assert str(path).encode() in done.stderr or str(path.parent).encode() in done.stderr
        no_secret(" ".join(verb), done.stdout + done.stderr)
    assert ingest.requests == []


def test_s22_no_key_no_upload(tmp_path: Path, ingest: Ingest) -> None:
    """Neither to an ingest nor into an archive, and the daemon does not make a key of its own."""
    node = node_of(tmp_path, ingest)
    node.append("one", 3)
    (node.daemon.directory / "encryption_key").unlink()
    for url in (ingest.url, "file://%s" % (tmp_path / "kept")):
        node.daemon.config["ingest_url"] = url
        node.daemon.write_config()
        for verb in ("run", "sync"):
            done = node.daemon.cli(verb, timeout_s=20)
            assert done.returncode == 2
            assert b"clawmetry keygen" in done.stderr
    assert ingest.requests == []
    assert not (tmp_path / "kept").exists()
    assert not (node.daemon.directory / "encryption_key").exists()
    assert node.daemon.cli("snapshot", "--json").returncode == 0  # reading facts needs no key


def test_s22_what_lies_on_disk_is_ciphertext(tmp_path: Path, ingest: Ingest) -> None:
    """Queue, dead letters, quarantine and archive, while they are full and after: not one plaintext line, title or memory."""
    canary = Canary(tmp_path / "private")
    node = node_of(tmp_path, ingest)
    node.write("one", canary.path.read_bytes() * 50 + b"not json " + canary.needle + b"\n")
    (node.sessions / "sessions.json").write_text(json.dumps({"agent:main:" + canary.text: {"sessionId": "one", "label": canary.text}}))
    workspace = node.home / ".openclaw" / "workspace"
    workspace.mkdir()
    (workspace / "MEMORY.md").write_text(canary.text)
    # Two batches are refused for good, and the rest has to wait.
    ingest.policy = lambda request: Fault(status=503) if request.endpoint != "/auth" else None
    ingest.script(EVENTS, Fault(status=400))
    daemon = node.daemon

    def raw_is_clean(place: Path) -> None:
        for file in place.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                assert canary.needle not in data, file
                for encoded in (base64.b64encode(canary.needle)[2:-4], canary.needle.hex().encode()):
                    assert encoded not in data, file

    daemon.start()
    try:
        until(lambda: daemon.status()["queue"]["pending"] >= 2 and daemon.status()["quarantined"] == 1, what="a full queue")
        raw_is_clean(daemon.state_dir)
        assert {mode for path, mode in modes(daemon.state_dir).items()} <= {0o700, 0o600}
    finally:
        daemon.kill()
    raw_is_clean(daemon.state_dir)
    no_plain = daemon.log_file.read_bytes()
    assert canary.needle not in no_plain
    # It is in there all the same, and opens with the key: else nothing was shown.
    assert any(canary.needle in data for _name, data in everything((daemon.state_dir,), KEY_TEXT))
    daemon.config.update(ingest_url="file://%s" % (tmp_path / "kept"), state_dir=str(tmp_path / "other"))
    daemon.write_config()
    assert daemon.json("sync")["ok"] is True
    raw_is_clean(tmp_path / "kept")
    raw_is_clean(tmp_path / "other")
    assert {mode for path, mode in modes(tmp_path / "kept").items()} <= {0o700, 0o600}
    assert canary.needle in daemon.cli("archive", "show").stdout


def test_s22_every_envelope_has_its_own_nonce(tmp_path: Path, ingest: Ingest) -> None:
    """Across envelopes, titles and restarts. The ingest counts a nonce used for two blobs as a violation."""
    node = node_of(tmp_path, ingest, snapshot_interval=1)
    (node.sessions / "sessions.json").write_text(json.dumps({"k%d" % n: {"sessionId": "s%d" % n, "label": "same"} for n in range(40)}))
    for number in range(40):
        node.append("s%d" % number, 1)
    for _life in range(3):
        node.daemon.start()
        node.append("s0", 300)
        ingest.wait_events(node.expected_events)
        ingest.wait(lambda me: len(me.sessions) >= 40, what="rows")
        node.daemon.terminate()
    ingest.check()
    envelopes = [
        base64.urlsafe_b64decode(json.loads(request.body)["blob"])
        for request in ingest.requests
        if b'"blob"' in request.body and request.endpoint != "/ingest/sessions"
    ]
    titles = [base64.urlsafe_b64decode(row["display_name_blob"]) for row in ingest.sessions.values() if row["display_name_blob"]]
    assert len(titles) == 40 and len(envelopes) > 40
    distinct = set(envelopes) | set(titles)
    assert len({envelope[:12] for envelope in distinct}) == len(distinct)


def test_s22_an_independent_decoder_and_ours_open_each_others_blobs(tmp_path: Path, ingest: Ingest) -> None:
    """The decoder of the tests is written from the wire format alone; the archive is opened by our command line."""
    import sqlite3

    node = node_of(tmp_path, ingest)
    node.append("one", 3)
    daemon = node.daemon
    daemon.config["ingest_url"] = "file://%s" % (tmp_path / "kept")
    daemon.write_config()
    assert daemon.json("sync")["events"] == 3
    key = decode_key(KEY_TEXT)
    with sqlite3.connect(tmp_path / "kept" / "archive.db") as database:
        rows = database.execute("SELECT payload FROM envelope WHERE endpoint='/ingest/events'").fetchall()
        opened = [open_blob(base64.urlsafe_b64encode(payload).decode(), key) for (payload,) in rows]
        assert [event["seq"] for batch in opened for event in batch["events"]] == [0, 1, 2]
        for compress in (False, True):
            theirs = {
                "session_file": "theirs.jsonl",
                "node_id": "n",
                "events": [{"from": "elsewhere", "compressed": compress}],
                "source": {},
            }
            payload = base64.urlsafe_b64decode(seal_blob(theirs, key, compress=compress))
            database.execute(
                "INSERT INTO envelope(key, endpoint, node_id, at, payload) VALUES(?,?,?,?,?)", ("k%s" % compress, EVENTS, "n", 0.0, payload)
            )
    database.close()
    shown = [json.loads(line) for line in daemon.cli("archive", "show", "theirs").stdout.splitlines()]
    assert shown == [{"from": "elsewhere", "compressed": False}, {"from": "elsewhere", "compressed": True}]
    (daemon.directory / "encryption_key").write_text(base64.urlsafe_b64encode(bytes(32)).decode())
    done = daemon.cli("archive", "show")
    assert done.returncode == 1 and b"do not open with this key" in done.stderr and done.stdout == b""


def sockets_of(pid: int) -> list[str]:
    """Return the inodes of the sockets a process holds."""
    found = []
    for entry in os.listdir("/proc/%d/fd" % pid):
        try:
            target = os.readlink("/proc/%d/fd/%s" % (pid, entry))
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.append(target[8:-1])
    return found


def test_s29_one_private_socket_and_no_port(tmp_path: Path, ingest: Ingest) -> None:
    node = node_of(tmp_path, ingest)
    node.append("one", 1)
    previous = os.umask(0)
    try:
        node.daemon.start()
    finally:
        os.umask(previous)
    try:
        ingest.wait_events(1)
        path = node.daemon.state_dir / "status.sock"
        seen = path.lstat()
        assert stat.S_ISSOCK(seen.st_mode) and stat.S_IMODE(seen.st_mode) == 0o600
        assert stat.S_IMODE(node.daemon.state_dir.stat().st_mode) == 0o700
        assert {mode for name, mode in modes(node.daemon.state_dir).items()} <= {0o700, 0o600}
        assert node.daemon.process is not None
        mine = set(sockets_of(node.daemon.process.pid))
        for table, listening in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
            lines = Path("/proc/%d/net/%s" % (node.daemon.process.pid, table)).read_text().splitlines()[1:]
            assert not [line for line in lines if line.split()[3] == listening and line.split()[9] in mine]
    finally:
        node.daemon.kill()


def asked_by(uid: int, path: Path) -> str:
    """Ask the status socket as another user: how many bytes came back, or the error's name."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "nothing"
        try:
            os.chdir(path.parent)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(path.name)
                client.sendall(b'{"op":"status"}')
                client.shutdown(socket.SHUT_WR)
                answer = "%d bytes" % len(client.recv(99999))
        except BaseException as exc:
            answer = type(exc).__name__
        finally:
            os.write(writing, answer.encode())
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        answer = stream.read().decode()
    os.waitpid(child, 0)
    return answer


@pytest.mark.root
def test_s29_another_user_gets_no_answer(tmp_path: Path, ingest: Ingest) -> None:
    """Not even where the file's mode was opened by mistake: the peer's uid is looked at."""
    node = node_of(tmp_path, ingest)
    node.daemon.start()
    try:
        path = node.daemon.state_dir / "status.sock"
        assert asked_by(65534, path) == "PermissionError"
        path.chmod(0o666)
        node.daemon.state_dir.chmod(0o755)
        assert asked_by(65534, path) in ("0 bytes", "ConnectionResetError", "BrokenPipeError")
        assert asked_by(0, path) not in ("0 bytes", "PermissionError")
    finally:
        node.daemon.kill()
