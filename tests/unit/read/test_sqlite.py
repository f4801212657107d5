# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transcripts in SQLite: what is read, in which order, exactly once, and what a crafted database gains (nothing)."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Optional

import pytest

from clawmetry_sync.errors import CommandError, StateError, Unreadable
from clawmetry_sync.model import HomePlace, Sandbox
from clawmetry_sync.queue import Queue
from clawmetry_sync.read import routes, sqlitestore
from clawmetry_sync.read.opener import HeldDir
from clawmetry_sync.read.sqlitechild.confinement import MEMORY_BYTES
from clawmetry_sync.read.sqlitechild.frames import HEADER, ROW
from clawmetry_sync.read.sqlitestore import NoTranscripts, Want
from clawmetry_sync.run import run
from clawmetry_sync.seal import Sealer
from clawmetry_sync.sync import Context, SandboxSync
from support import agentdb
from support.agentdb import NAME, SCHEMA, AgentDatabase, line, numbered

pytestmark = pytest.mark.spawns
PATH = b".openclaw/agents/main/agent/" + NAME.encode()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """One sandbox in a home directory, read into a queue of its own; what was sealed is opened again."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.state = directory / "state"
        self.state.mkdir(mode=0o700, exist_ok=True)
        (self.home / ".openclaw/agents/main/sessions").mkdir(parents=True, exist_ok=True)
        self.sealer = Sealer(b"k" * 32)
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        self.queue = Queue(str(self.state / "queue.db"))
        sandbox = Sandbox("bare:test", "test", "bare", home=HomePlace(os.fsencode(self.home)), confirmed=True)
        held = routes.open_sandbox(sandbox, routes=["volume"])
        self.sync = SandboxSync(held, Context(self.queue, self.sealer, "node", lambda: False, self.clock))

    def restart(self) -> None:
        self.sync.close()
        self.queue.close()
        self.start()

    @property
    def sessions(self) -> Path:
        return self.home / ".openclaw/agents/main/sessions"

    def database(self, schema: str = SCHEMA) -> AgentDatabase:
        return AgentDatabase(self.home / ".openclaw/agents/main/agent" / NAME, schema=schema)

    def read(self, passes: int = 30) -> int:
        """Read until nothing is left; return the number of turns."""
        turns = 0
        for _pass in range(passes):
            self.clock.now += 10
            work = self.sync.scan()
            if not work:
                break
            for item in work:
                turns += 1
                self.sync.turn(*item)
        else:
            raise AssertionError("still not done: %r" % self.sync.problems)
        return turns

    def bodies(self) -> list[dict[str, Any]]:
        rows = self.queue.db.execute("SELECT payload FROM outbox WHERE endpoint='/ingest/events' ORDER BY id")
        return [json.loads(self.sealer.open(payload)) for (payload,) in rows]

    def events(self, session: str) -> list[Any]:
        return [event for body in self.bodies() if body["session_file"] == session + ".jsonl" for event in body["events"]]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def texts(count: int, start: int = 0, size: int = 200) -> list[str]:
    return [line(numbered(number, 3000 if number % 3 == 0 else size)) for number in range(start, start + count)]


def numbers(events: list[Any]) -> list[int]:
    return [event["seq"] for event in events]


# -- what is read ------------------------------------------------------------------------------


def test_r30_rows_come_in_order_plain_and_compressed_and_only_once(node: Node) -> None:
    database = node.database()
    database.session("a", "agent:main:main", title="A title")
    database.session("b", "agent:main:subagent:0b1c")
    database.add("a", texts(450))
    database.add("b", texts(7))
    node.read()
    assert numbers(node.events("a")) == list(range(450))
    assert numbers(node.events("b")) == list(range(7))
    database.add("a", texts(5, 450))
    node.read()
    assert numbers(node.events("a")) == list(range(455))
    assert node.read() == 0  # idle: no child is started
    sizes = [len(body["events"]) for body in node.bodies()]
    assert max(sizes) <= 200
    assert {body.get("subagent_id") for body in node.bodies() if body["session_file"] == "b.jsonl"} == {"0b1c"}
    rows = node.queue.changed_sessions(10)
    shown = {row["session_id"]: row for row in filter(None, map(node.sync.session_row, rows))}
    assert shown["a"]["session_key"] == "agent:main:main"
    assert shown["a"]["display_name_blob"] and "A title" not in json.dumps(shown)
    assert not node.sync.problems


def test_bytes_are_those_of_the_database(node: Node) -> None:
    database = node.database()
    database.session("a")
    odd = ['{"seq":0,"t":"\u2028 \U0001f99e"}', '{"seq": 1, "n": 1e400}', '{"a":1,"a":2,"seq":2}', "{\n\"seq\": 3\n}"]
    database.add("a", odd)
    node.read()
    rows = node.queue.db.execute("SELECT payload FROM outbox").fetchall()
    plain = b"".join(node.sealer.open(payload) for (payload,) in rows)
    for text in odd:
        assert text.encode() in plain


def test_a_cursor_survives_a_restart(node: Node) -> None:
    database = node.database()
    database.session("a")
    database.add("a", texts(20))
    node.read()
    database.add("a", texts(20, 20))
    node.restart()
    node.read()
    assert numbers(node.events("a")) == list(range(40))


@pytest.mark.parametrize("generation", ["g2", None])
def test_r30_a_rewrite_is_read_again_without_sending_again(node: Node, generation: Optional[str]) -> None:
    database = node.database()
    database.session("a")
    before = texts(30)
    database.add("a", before)
    node.read()
    database.rewrite("a", [*before[10:], *texts(3, 100)], generation=generation)
    node.clock.now += 100
    node.read()
    assert numbers(node.events("a")) == [*range(30), 100, 101, 102]
    database.add("a", texts(2, 200))
    node.restart()
    node.read()
    assert numbers(node.events("a")) == [*range(30), 100, 101, 102, 200, 201]


def test_r30_what_is_deleted_stays_sent_and_may_come_back(node: Node) -> None:
    database = node.database()
    database.session("a")
    database.session("b")
    database.add("a", texts(5))
    node.read()
    database.delete("a")
    database.add("b", texts(2))
    node.read()
    database.session("a", "agent:main:again", generation="g9")
    database.add("a", texts(7))
    node.clock.now += 60
    database.add("b", texts(1, 2))
    node.read()
    assert numbers(node.events("a")) == list(range(7))
    assert numbers(node.events("b")) == list(range(3))


def test_a_cursor_is_forgotten_an_hour_after_the_session(node: Node) -> None:
    database = node.database()
    database.session("a")
    database.session("b")
    database.add("a", texts(1))
    database.add("b", texts(1))
    node.read()
    node.queue.db.execute("DELETE FROM outbox")
    database.delete("a")
    node.clock.now += 4000
    database.add("b", texts(1, 1))
    node.read()
    (database_sync,) = [agent.database for agent in node.sync._agents.values() if agent.database]
    assert list(database_sync.sessions) == [b"b"]


def test_a_database_without_transcripts_is_none(node: Node) -> None:
    node.database("PRAGMA journal_mode=WAL; CREATE TABLE memory(x);")
    node.read()
    assert not node.sync.problems
    assert routes.survey(node.sync.held).store == "none"


def test_a_newer_schema_is_read_as_far_as_it_is_known(node: Node) -> None:
    schema = """PRAGMA journal_mode=WAL; PRAGMA user_version=99;
    CREATE TABLE transcript_events(shiny TEXT, seq INTEGER, session_id TEXT, event_json TEXT, PRIMARY KEY(session_id, seq));
    CREATE TABLE session_nodes(session_key TEXT PRIMARY KEY, something_else BLOB);"""
    database = node.database(schema)
    database.db.executemany("INSERT INTO transcript_events(session_id, seq, event_json) VALUES('a',?,?)", enumerate(texts(4)))
    node.read()
    assert numbers(node.events("a")) == [0, 1, 2, 3]


def test_what_is_no_event_goes_to_quarantine_by_its_seq(node: Node) -> None:
    database = node.database()
    database.session("a")
    database.add("a", ['{"seq":0}', "not json", "[1]", '{"seq":3}'])
    database.insert_packed("a", 4, b"\x28\xb5\x2f\xfdxx", 100)
    database.db.execute(
        "INSERT INTO transcript_events(session_id, seq, created_at, event_json) VALUES('a',5,0,CAST(zeroblob(9000000) AS TEXT))"
    )
    database.add("a", ['{"seq":6}'])
    node.read()
    assert numbers(node.events("a")) == [0, 3, 6]
    found = {row["offset"]: row["reason"] for row in node.queue.quarantined()}
    assert sorted(found) == [1, 2, 4, 5], found
    assert found[4] == "damaged zstd data" and found[5].startswith("longer than")


def test_a_bomb_of_zstd_is_bounded(node: Node) -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=3).compress(b"\0" * (512 << 20))
    database = node.database()
    database.session("a")
    for seq, size in ((0, 4 << 20), (1, None)):
        database.insert_packed("a", seq, bomb, size)
    database.add("a", ['{"seq":2}'])
    node.read()
    assert numbers(node.events("a")) == [2]
    assert node.queue.quarantined()[0]["reason"].startswith("decompresses to more than")


def test_our_disk_is_full_and_nothing_is_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    database = node.database()
    database.session("a")
    database.add("a", texts(10))
    real = Queue.commit_turn

    def full(*_arguments: Any) -> None:
        raise StateError("cannot write queue.db")

    monkeypatch.setattr(Queue, "commit_turn", full)
    for _pass in range(3):
        node.clock.now += 10
        for item in node.sync.scan():
            with contextlib.suppress(StateError):
                node.sync.turn(*item)
    monkeypatch.setattr(Queue, "commit_turn", real)
    node.read()
    assert numbers(node.events("a")) == list(range(10))


def test_compressed_rows_wait_for_a_decoder(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    database = node.database()
    database.session("a")
    database.add("a", texts(3))
    monkeypatch.setattr(sqlitestore, "_packages", lambda: ())
    if sys.version_info < (3, 14):
        node.read()
        assert "zstandard" in " ".join(node.sync.problems.values())
        assert not node.queue.quarantined()
    monkeypatch.undo()
    node.clock.now += 100
    node.read()
    assert numbers(node.events("a")) == [0, 1, 2]
    assert not node.sync.problems


# -- both stores --------------------------------------------------------------------------------------


def test_r30_history_that_moves_into_the_database_midway_is_sent_once(node: Node) -> None:
    history = texts(60)
    file = node.sessions / "a.jsonl"
    file.write_text("".join(text + "\n" for text in history[:40]), "utf-8")
    node.read()
    assert numbers(node.events("a")) == list(range(40))
    # The rest of the file is never seen: it was written and moved between two looks.
    database = node.database()
    database.session("a")
    database.add("a", history[:25])
    node.read()
    archive = node.sessions.parent / "session-sqlite-import-archive"
    archive.mkdir()
    file.write_text("".join(text + "\n" for text in history), "utf-8")
    file.rename(archive / "a.jsonl.imported-1")
    database.add("a", history[25:50])
    node.restart()
    node.read()
    database.add("a", [*history[50:], *texts(5, 60)])
    node.read()
    assert numbers(node.events("a")) == list(range(65))


def test_r30_files_that_are_left_beside_the_database_are_sent_once(node: Node) -> None:
    history = texts(30)
    database = node.database()
    database.session("a")
    database.add("a", history)
    (node.sessions / "a.jsonl").write_text("".join(text + "\n" for text in history[:20]), "utf-8")
    (node.sessions / "only-here.jsonl").write_text(line(numbered(0)) + "\n", "utf-8")
    node.read()
    assert sorted(numbers(node.events("a"))) == list(range(30))
    assert len(node.events("only-here")) == 1
    (node.sessions / "a.jsonl").write_text("".join(text + "\n" for text in [*history, *texts(2, 30)]), "utf-8")
    node.read()
    database.add("a", texts(3, 30))
    node.read()
    assert sorted(numbers(node.events("a"))) == list(range(33))
    seen = routes.survey(node.sync.held)
    assert (seen.store, seen.session_count, seen.reason) == ("both", 2, None)


def test_a_file_that_appears_while_the_database_is_read_is_sent_once(node: Node) -> None:
    history = texts(12_000, size=300)
    database = node.database()
    database.session("a")
    database.add("a", history)
    node.clock.now += 10
    for _turn in range(2):
        for item in node.sync.scan():
            node.sync.turn(*item)
    assert 0 < len(node.events("a")) < len(history)
    (node.sessions / "a.jsonl").write_text("".join(text + "\n" for text in history), "utf-8")
    node.read(100)
    assert sorted(numbers(node.events("a"))) == list(range(12_000))


def test_an_archive_of_a_deleted_session_brings_what_was_not_seen(node: Node) -> None:
    history = texts(9000, size=900)
    database = node.database()
    database.session("a")
    database.add("a", history[:30])
    node.read()
    database.delete("a")
    raw = "".join(text + "\n" for text in history).encode()
    (node.sessions / "a.jsonl.deleted.2026-11-21T19-42-59.112Z.e56c.zst").write_bytes(agentdb.compressed(raw))
    (node.sessions / "b.jsonl.deleted.2026-11-21T19-42-59.112Z.e56c.zst").write_bytes(b"not zstd")
    node.read()
    assert numbers(node.events("a")) == list(range(9000))
    assert "damaged" in node.sync.problems["b.jsonl.deleted.2026-11-21T19-42-59.112Z.e56c.zst"]
    node.restart()
    assert node.read() <= 2  # the damaged one, and the database
    assert len(node.events("a")) == 9000
    assert routes.survey(node.sync.held).store == "none" or routes.survey(node.sync.held).session_count == 0


def test_an_archive_is_read_from_its_start_after_a_restart_midway(node: Node) -> None:
    raw = "".join(text + "\n" for text in texts(9000, size=900)).encode()
    (node.sessions / "a.jsonl.deleted.2026-11-21T19-42-59.112Z.e56c.zst").write_bytes(agentdb.compressed(raw))
    (node.sessions / "bomb.jsonl.deleted.x.zst").write_bytes(agentdb.compressed(b"\0" * (300 << 20)))
    for item in node.sync.scan():
        node.sync.turn(*item)
    assert 0 < len(node.events("a")) < 9000
    node.restart()
    node.read()
    assert numbers(node.events("a")) == list(range(9000))
    assert "longer than" in node.sync.problems["bomb.jsonl.deleted.x.zst"]


def test_the_survey_counts_sessions(node: Node) -> None:
    database = node.database()
    for name in ("a", "b", "nemoclaw-onboard-warmup-1"):
        database.session(name)
        database.add(name, texts(1))
    seen = routes.survey(node.sync.held)
    assert (seen.store, seen.session_count, seen.reason) == ("sqlite", 2, None)


# -- the child ------------------------------------------------------------------------------------------


def look_at(node: Node, *want: Want, walk: Optional[str] = "") -> sqlitestore.Answer:
    with HeldDir.hold(os.fsencode(node.home)) as root:
        return sqlitestore.ask(root, PATH, own_home=True, want=want, walk=walk)


def test_r30_reading_leaves_no_trace(node: Node) -> None:
    database = node.database()
    database.session("a")
    database.add("a", texts(3))
    database.close()

    directory = node.home / ".openclaw/agents/main/agent"

    def entries() -> dict[str, tuple[int, int]]:
        return {name.name: (name.stat().st_mtime_ns, name.stat().st_size) for name in directory.iterdir()}

    before = entries()
    assert list(before) == [NAME]
    assert len(look_at(node, Want("a")).pieces[0].events) == 3
    assert entries() == before


DIES = """
import os, sys
sys.path.insert(0, sys.argv[2])
from support.agentdb import AgentDatabase, Path
database = AgentDatabase(Path(sys.argv[1]))
database.session("a")
database.add("a", ['{"seq":0}', '{"seq":1}'])
os._exit(9)
"""


def test_rows_of_a_writer_that_died_are_read(node: Node) -> None:
    file = node.home / ".openclaw/agents/main/agent" / NAME
    subprocess.run([sys.executable, "-c", DIES, str(file), str(Path(agentdb.__file__).parents[1])], check=False)
    assert (file.parent / (NAME + "-wal")).stat().st_size > 0
    before = {name.name: name.stat().st_mtime_ns for name in file.parent.iterdir()}
    assert len(look_at(node, Want("a")).pieces[0].events) == 2
    assert {name.name: name.stat().st_mtime_ns for name in file.parent.iterdir()} == before


@pytest.mark.root
def test_s19_the_child_is_the_owner_and_nothing_else(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the confined process says of itself, and what it can still open."""
    node.database().close()
    agent = node.home / ".openclaw/agents/main/agent"
    for path in (node.home, *node.home.rglob("*")):
        os.chown(path, 4242, 4242)
    for path in (node.home, *node.home.parents):
        if path.is_dir() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    (node.home / "etc").mkdir()
    probe = """
import json, os, sys, resource
sys.modules["sqlitechild.confinement"].confine(*json.loads(sys.stdin.buffer.read()))
def tried(what):
    try:
        return repr(what())
    except BaseException as exc:
        return type(exc).__name__
print(json.dumps({
    "ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()], "cwd": os.getcwd(), "root": sorted(os.listdir("/")),
    "chroot": tried(lambda: os.chroot("/etc")), "setuid": tried(lambda: os.setuid(0)), "fork": tried(os.fork),
    "fds": [fd for fd in range(3, 32) if tried(lambda: os.fstat(fd)) != "OSError"],
    "write": tried(lambda: os.write(os.open("x", os.O_WRONLY | os.O_CREAT), b"x")),
    "import": tried(lambda: __import__("colorsys")), "limit": resource.getrlimit(resource.RLIMIT_AS), "env": dict(os.environ)}))
"""
    source = sqlitestore.program()
    with HeldDir.hold(os.fsencode(node.home)) as root, root.open_dir(PATH.rpartition(b"/")[0]) as directory:
        result = run(
            [sys.executable, "-I", "-S", "-c", sqlitestore.LOAD + probe, str(len(source))],
            stdin=source + json.dumps([root.fd, directory.fd, 4242, 4242, 0]).encode(),
            pass_fds=[root.fd, directory.fd],
        )
    assert result.rc == 0, result.stderr.decode()[-2000:]
    said = json.loads(result.stdout)
    assert said["ids"] == [4242] * 6
    assert said["cwd"] == "/.openclaw/agents/main/agent" and agent.exists()
    assert said["root"] == [".openclaw", "etc"]
    assert said["chroot"] == said["setuid"] == "PermissionError"
    assert (said["fork"], said["write"]) == ("BlockingIOError", "OSError")
    assert said["import"] in ("ModuleNotFoundError", "ImportError")
    assert said["fds"] == []
    assert set(said["env"]) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE"}
    assert said["limit"][0] == MEMORY_BYTES


SERVICE = """
import importlib.util, json, os, sys
engine, home = sys.argv[1:]
spec = importlib.util.spec_from_file_location("clawmetry_sync", engine + "/__init__.py", submodule_search_locations=[engine])
sys.modules["clawmetry_sync"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from clawmetry_sync.errors import Unreadable
from clawmetry_sync.read import sqlitestore
from clawmetry_sync.read.opener import HeldDir
try:
    path = b".openclaw/agents/main/agent/openclaw-agent.sqlite"
    answer = sqlitestore.ask(HeldDir.hold(os.fsencode(home)), path, own_home=False, want=[sqlitestore.Want("a")])
    print(json.dumps([os.geteuid(), answer.pieces[0].state, len(answer.pieces[0].events)]))
except Unreadable as exc:
    print(json.dumps(str(exc)))
"""


def test_the_child_is_at_hand_in_a_zipapp(node: Node, tmp_path: Path) -> None:
    database = node.database()
    database.session("a")
    database.add("a", texts(4))
    engine = Path(sqlitestore.__file__).parents[1]
    release = tmp_path / "clawmetry.pyz"
    with zipfile.ZipFile(release, "w") as archive:
        for file in sorted(engine.rglob("*.py")):
            archive.write(file, "clawmetry_sync/" + str(file.relative_to(engine)))
    main = SERVICE[SERVICE.index("from clawmetry_sync") :].replace("os.fsencode(home)", "os.fsencode(sys.argv[2])").replace("False", "True")
    argv = [sys.executable, "-Bc", "import json, os, sys\nsys.path.insert(0, sys.argv[1])\n" + main, str(release), str(node.home)]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60, cwd=tmp_path)
    assert json.loads(done.stdout or b"null") == [os.geteuid(), "ok", 4], done.stderr.decode()


@pytest.mark.root
@pytest.mark.parametrize("owner", [0, 4242])
@pytest.mark.parametrize("live", [True, False])
def test_the_service_user_reads_with_its_five_capabilities_and_not_with_two(tmp_path: Path, owner: int, live: bool) -> None:
    node = Node(tmp_path)
    database = node.database()
    database.session("a")
    database.add("a", texts(4))
    if not live:
        database.close()
    os.chown(node.home, owner, owner)
    for path in node.home.rglob("*"):
        os.chown(path, owner, owner)
    node.home.chmod(0o700)
    engine = Path(sqlitestore.__file__).parents[1]
    before = {entry.name: (entry.stat().st_mtime_ns, entry.stat().st_size) for entry in database.path.parent.iterdir()}

    def as_service(capabilities: str) -> Any:
        setpriv = ["setpriv", "--reuid=4343", "--regid=4343", "--clear-groups", "--no-new-privs"]
        setpriv += ["--%s-caps=-all,%s" % (kind, capabilities) for kind in ("inh", "ambient")] + ["--bounding-set=-all," + capabilities]
        done = subprocess.run(
            [*setpriv, sys.executable, "-Bc", SERVICE, str(engine), str(node.home)], capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    two = "+sys_ptrace,+dac_read_search"
    assert as_service(two + ",+sys_chroot,+setuid,+setgid") == [4343, "ok", 4]
    assert "CAP_SYS_CHROOT" in as_service(two)
    assert {entry.name: (entry.stat().st_mtime_ns, entry.stat().st_size) for entry in database.path.parent.iterdir()} == before


def test_a_frame_out_of_order_spoils_the_answer() -> None:
    def frame(kind: bytes, payload: bytes) -> bytes:
        return HEADER.pack(kind, len(payload)) + payload

    end = frame(b"e", b'{"rowid":1,"after":null,"lost":false,"reason":null}')
    row = ROW.pack
    good = frame(b"r", row(0, 3) + b"{}") + frame(b"s", b'[0,"g",4,"",  "ok"]')
    assert sqlitestore._understood(good + end, [Want("a", "g", 3)], "x").pieces[0].events == [(3, b"{}")]
    for bad in (
        b"",
        good,
        end + end,
        good + good + end,
        frame(b"r", row(1, 3)) + end,
        frame(b"r", row(0, 2)) + end,
        frame(b"r", b"\0") + end,
        frame(b"x", b"{}") + end,
        frame(b"s", b'[0,"g",9,"","ok"]') + end,
        frame(b"s", b'[0,"\\u001b",3,"","ok"]') + end,
        frame(b"h", b'[["a","g",-1,null]]') + end,
        frame(b"h", b'[["","g",1,null]]') + end,
        frame(b"h", b'[["\\ud800","g",1,null]]') + end,
        frame(b"h", b"[" * 5000) + end,
        frame(b"e", b'{"rowid":"1","after":null,"lost":false,"reason":null}'),
        frame(b"e", b"[]"),
        end[:-1],
    ):
        with pytest.raises((ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, struct.error)):
            sqlitestore._understood(bad, [Want("a", "g", 3)], "x")


def test_what_is_fed_to_a_child_that_does_not_read_is_no_error() -> None:
    assert run([sys.executable, "-Ic", "print(1)"], stdin=b"x" * (1 << 20)).stdout == b"1\n"
    assert run([sys.executable, "-Ic", "import sys; print(len(sys.stdin.buffer.read()))"], stdin=b"x" * (1 << 20)).stdout == b"1048576\n"
    with pytest.raises(CommandError):
        run([sys.executable, "-Ic", "import time; time.sleep(9)"], stdin=b"x" * (1 << 20), timeout_s=0.5)


# -- crafted databases --------------------------------------------------------------------------------------


def rows_of(count: int) -> str:
    return "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<%d) " % (count - 1)


TABLE = "CREATE TABLE transcript_events(session_id TEXT, seq INTEGER, event_json TEXT, PRIMARY KEY(session_id, seq));"
HOSTILE = {
    "recursive view": "CREATE VIEW transcript_events AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n)"
    " SELECT 'a' AS session_id, i AS seq, '{}' AS event_json FROM n;",
    "view of secrets": "CREATE TABLE auth_profile_store(value TEXT); INSERT INTO auth_profile_store VALUES('AUTH-PROFILE-SECRET');"
    "CREATE VIEW transcript_events AS SELECT 'a' AS session_id, 0 AS seq, value AS event_json FROM auth_profile_store;",
    "virtual table": "CREATE VIRTUAL TABLE transcript_events USING fts5(session_id, seq, event_json);",
    "disguised view": TABLE + "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql="
    "'CREATE/*x*/VIEW \"transcript_events\" AS SELECT ''a'' AS session_id, 0 AS seq, ''{}'' AS event_json', rootpage=0"
    " WHERE name='transcript_events'; DELETE FROM sqlite_master WHERE type='index';",
    "computed column": "CREATE TABLE transcript_events(session_id TEXT, seq INTEGER, event_json TEXT AS (hex(zeroblob(400000000))));"
    "INSERT INTO transcript_events VALUES('a',0);",
    "generation from a view": TABLE + "INSERT INTO transcript_events VALUES('a',0,'{}');"
    "CREATE VIEW transcript_rewrite_watermarks AS SELECT 'a' AS session_id, hex(zeroblob(400000000)) AS generation;",
    "schema of many": TABLE + "BEGIN;" + "".join("CREATE TABLE t%d(x);" % number for number in range(6000)) + "COMMIT;",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_crafted_schema_is_refused_at_once(node: Node, name: str) -> None:
    database = node.database(HOSTILE[name])
    database.close()
    start = time.monotonic()
    with pytest.raises(Unreadable) as caught:
        look_at(node, Want("a"))
    assert time.monotonic() - start < 5
    print(name, "->", caught.value)
    node.read()
    assert node.bodies() == []
    # A schema that SQLite itself finds damaged may be an accident; the others are planted.
    assert node.sync.problems and bool(node.sync.failures()) == (name == "disguised view")


def test_triggers_and_lying_indexes_gain_nothing(node: Node) -> None:
    database = node.database(TABLE + "CREATE TABLE other(x); CREATE TEMP TABLE y(x);")
    database.db.executescript(
        "CREATE TRIGGER t AFTER INSERT ON transcript_events BEGIN INSERT INTO other VALUES(randomblob(100)); END;"
        "INSERT INTO transcript_events VALUES('a',0,'{\"seq\":0}'); PRAGMA writable_schema=ON;"
        "UPDATE sqlite_master SET rootpage=(SELECT rootpage FROM sqlite_master WHERE name='other') WHERE type='index';"
    )
    database.close()
    node.read()
    assert len(node.events("a")) <= 1


def test_a_cell_of_a_gigabyte_costs_little(node: Node) -> None:
    database = node.database(TABLE)
    database.db.execute("INSERT INTO transcript_events VALUES('a',0,'{\"seq\":0}')")
    database.db.execute("INSERT INTO transcript_events VALUES('a',1,zeroblob(999000000))")
    database.db.execute("INSERT INTO transcript_events VALUES('a',2,'{\"seq\":2}')")
    database.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    node.read()
    print("1 GB cell: %.2f s, +%d KiB" % (time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
    assert numbers(node.events("a")) == [0, 2]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    database.close()
    (node.home / ".openclaw/agents/main/agent" / NAME).unlink()


def test_damaged_pages_hold_up_nothing_else(node: Node) -> None:
    database = node.database()
    for name in ("a", "b"):
        database.session(name)
        database.add(name, texts(200, size=700), compress=False)
    database.close()
    file = node.home / ".openclaw/agents/main/agent" / NAME
    whole = file.read_bytes()
    for page in range(2, len(whole) // 4096, max(1, len(whole) // 4096 // 12)):
        file.write_bytes(whole[: page * 4096] + os.urandom(4096) + whole[(page + 1) * 4096 :])
        start = time.monotonic()
        try:
            look_at(node, Want("a"), Want("b"))
        except Unreadable as exc:
            assert "valid" not in str(exc), exc
        assert time.monotonic() - start < 5
    file.write_bytes(os.urandom(8192))
    with pytest.raises(Unreadable):
        look_at(node)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "directory"])
def test_links_and_odd_files_in_its_place_are_refused(node: Node, tmp_path: Path, suffix: str, kind: str) -> None:
    database = node.database()
    database.session("a")
    database.add("a", texts(2))
    secret = AgentDatabase(tmp_path / "elsewhere" / "secret")
    secret.session("a")
    secret.add("a", ['{"stolen":true}'])
    database.close()
    target = node.home / ".openclaw/agents/main/agent" / (NAME + suffix)
    target.unlink(missing_ok=True)
    elsewhere = str(secret.path) + suffix.replace("-journal", "")
    if kind == "symlink":
        target.symlink_to(elsewhere)
    elif kind == "hard link":
        target.hardlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    start = time.monotonic()
    with pytest.raises(Unreadable):
        look_at(node, Want("a"))
    assert time.monotonic() - start < 5
    node.read()
    assert node.bodies() == []


def test_a_linked_directory_is_refused(node: Node, tmp_path: Path) -> None:
    secret = AgentDatabase(tmp_path / "elsewhere" / NAME)
    secret.session("a")
    secret.add("a", ['{"stolen":true}'])
    (node.home / ".openclaw/agents/main/agent").symlink_to(tmp_path / "elsewhere")
    node.read()
    assert node.bodies() == []


def test_a_hundred_thousand_sessions_are_bounded(node: Node) -> None:
    database = node.database(TABLE)
    database.db.execute(rows_of(100_000) + "INSERT INTO transcript_events SELECT 's' || i, 0, '{}' FROM n")
    start = time.monotonic()
    for _turn in range(12):
        node.clock.now += 10
        for item in node.sync.scan():
            node.sync.turn(*item)
    (found,) = [agent.database for agent in node.sync._agents.values() if agent.database]
    print("12 turns over 100,000 sessions: %.1f s" % (time.monotonic() - start))
    assert len(found.sessions.keys() | found._behind.keys()) <= sqlitestore.MAX_SESSIONS
    assert any("more than" in text for text in node.sync.problems.values())


def test_ids_that_are_no_names_lead_nowhere(node: Node) -> None:
    database = node.database("CREATE TABLE transcript_events(session_id, seq, event_json);")
    odd: list[Any] = [None, 7, 1.5, b"blob", "", "x" * 300, "nul\0nul", "../../etc/passwd", "\x1b[31m", "good"]
    database.db.executemany("INSERT INTO transcript_events VALUES(?,0,'{\"seq\":0}')", [(name,) for name in odd])
    database.db.execute("INSERT INTO transcript_events VALUES(CAST(x'ff41' AS TEXT),0,'{}')")
    database.db.execute("INSERT INTO transcript_events VALUES('floats',1.5,'{}')")
    database.db.execute("INSERT INTO transcript_events VALUES('huge',9223372036854775807,'{}')")
    database.close()
    node.read(60)
    assert numbers(node.events("good")) == [0]
    assert numbers(node.events("../../etc/passwd")) == [0]


# -- a live writer ---------------------------------------------------------------------------------------------


def test_r30_a_live_writer_is_never_held_up(node: Node) -> None:
    file = node.home / ".openclaw/agents/main/agent" / NAME
    file.parent.mkdir(parents=True)
    argv = [sys.executable, agentdb.__file__, str(file), "live", "80", "20"]
    environment = {**os.environ, "PYTHONPATH": str(Path(agentdb.__file__).parents[1])}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as writer:
        largest = 0
        while writer.poll() is None:
            node.clock.now += 1
            for item in node.sync.scan():
                node.sync.turn(*item)
            wal = file.parent / (NAME + "-wal")
            largest = max(largest, wal.stat().st_size if wal.exists() else 0)
            time.sleep(0.05)
        told = json.loads(writer.stdout.read()) if writer.stdout is not None else {}
    node.read()
    print(told, "largest wal %d KiB" % (largest >> 10))
    assert numbers(node.events("live")) == list(range(80))
    assert told["longest_ms"] < 1000 and told["checkpoint"][0] == 0


def test_no_transcripts_is_an_answer_of_its_own(node: Node) -> None:
    node.database("CREATE TABLE x(y);").close()
    with pytest.raises(NoTranscripts):
        look_at(node)
