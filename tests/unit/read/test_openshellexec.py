# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Route exec by OpenShell's own CLI: which words are said as whom, and what is believed of the answer."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Sequence

import pytest

from clawmetry_sync import run
from clawmetry_sync.discover.openshellcli import Answer, Registration, Seat, Told
from clawmetry_sync.discover.openshelltext import Listed, parse_get
from clawmetry_sync.errors import CommandError, Unreadable
from clawmetry_sync.model import CliPlace, Sandbox
from clawmetry_sync.read import layout, openshellexec
from clawmetry_sync.read.openshellexec import open_root, words_of
from clawmetry_sync.read.routes import open_sandbox
from support.node import until
from support.samples import sample

from .test_execroute import LISTING, SESSIONS

PLACE = CliPlace(
    program="/home/alice/.local/bin/openshell",
    environment=(("HOME", "/home/alice"), ("XDG_CONFIG_HOME", "/home/alice/.config")),
    user=1234,
    group=1235,
    version=(0, 0, 72),
    gateway="nemoclaw",
    workspace=None,
    name="my-assistant",
    id="3f1c0a52",
)


class FakeCli:
    """Answers as OpenShell would for a sandbox with one transcript."""

    def __init__(self, greeting: bytes = b"", sandbox_id: str = PLACE.id) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.options: list[dict[str, Any]] = []
        self.greeting = greeting
        self.id = sandbox_id
        self.listing = LISTING
        self.rc = 0
        self.error: Optional[CommandError] = None

    def __call__(self, argv: Sequence[str], *, stdout_to: Optional[int] = None, **options: Any) -> run.Result:
        self.calls.append(tuple(argv))
        self.options.append(options)
        if self.error is not None:
            raise self.error
        if argv[1:3] == ("sandbox", "get"):
            said = b"Sandbox:\n\n  Id: %s\n  Name: my-assistant\n  Phase: Ready\n" % self.id.encode()
            return run.Result(tuple(argv), 0, said, b"")
        assert stdout_to is not None
        if self.rc == 0:
            os.write(stdout_to, self.greeting + b"clawmetry-begins-here\n" + self._answer(argv))
        return run.Result(tuple(argv), self.rc, b"", sample_error())

    def _answer(self, argv: Sequence[str]) -> bytes:
        if "/bin/tar" not in argv:
            return self.listing
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            info = tarfile.TarInfo(argv[-1])
            info.size = 8
            archive.addfile(info, io.BytesIO(b'{"a":1}\n'))
        return stream.getvalue()

    def execs(self) -> list[tuple[str, ...]]:
        return [call for call in self.calls if call[1:3] == ("sandbox", "exec")]


def sample_error() -> bytes:
    return "Error:   × sandbox 'my-assistant' is not ready (phase: Provisioning); wait for it to\n  │ reach Ready state\n".encode()


def test_the_words_are_fixed_and_the_operands_come_after_two_dashes() -> None:
    words = words_of(PLACE, ("/bin/tar", "-c", "--", "./-rf"), 4.2)
    assert words[:12] == (
        "/home/alice/.local/bin/openshell", "sandbox", "exec", "-g", "nemoclaw", "-n", "my-assistant", "--no-tty", "--timeout", "5",
        "--", "/bin/sh",
    )  # fmt: skip
    assert words[12:14] == ("-c", 'echo clawmetry-begins-here; exec "$@"') and words[14:] == ("sh", "/bin/tar", "-c", "--", "./-rf")
    assert not any("\n" in word for word in words)


def test_no_word_of_a_listing_has_a_line_end() -> None:
    """OpenShell refused such arguments at first."""
    cli = FakeCli()
    open_root(PLACE, None, cli)
    assert not any("\n" in word for call in cli.calls for word in call)


@pytest.mark.parametrize(("version", "named"), [((0, 0, 72), False), ((0, 0, 87), False), ((0, 0, 88), True), ((0, 1), True), ((), True)])
def test_a_workspace_is_named_from_0_0_88_on(version: tuple[int, ...], named: bool) -> None:
    words = words_of(replace(PLACE, version=version, workspace="team"), ("/bin/true",), 1.0)
    assert (words[5:7] == ("--workspace", "team")) is named and words[words.index("-n") + 1] == "my-assistant"


def test_a_client_of_before_0_0_23_is_not_asked() -> None:
    cli = FakeCli()
    with pytest.raises(Unreadable, match=r"older than 0\.0\.23"):
        open_root(replace(PLACE, version=(0, 0, 22)), None, cli)
    assert cli.calls == []


def test_files_come_through_and_each_call_is_the_owner_s(tmp_path: Path) -> None:
    cli = FakeCli(greeting=b"Welcome!\nclawmetry-begins-here is what you will see\n\n")
    root = open_root(PLACE, str(tmp_path), cli)
    (state,) = layout.find_states(root)
    with root.open_dir(state.agents[0].sessions) as directory:
        fd = directory.open_file(b"a.jsonl")
    assert os.pread(fd, 100, 0) == b'{"a":1}\n'
    os.close(fd)
    root.close()
    assert [call[2] for call in cli.calls] == ["exec", "get", "exec"]
    assert cli.execs()[1][-7:] == ("/bin/tar", "-c", "-f", "-", "-C", "/" + SESSIONS.decode(), "./a.jsonl")
    for options in cli.options:
        assert (options["user"], options["group"], options["env"]["HOME"]) == (1234, 1235, "/home/alice")
        assert options["timeout_s"] <= 10 and "stdin" not in options
    assert list(tmp_path.iterdir()) == []


def test_a_sandbox_that_was_made_again_under_its_name_is_not_read_as_the_old_one() -> None:
    cli = FakeCli(sandbox_id="another")
    with pytest.raises(Unreadable, match="still sandbox 3f1c0a52"):
        open_root(PLACE, None, cli)
    cli.id = PLACE.id
    root = open_root(PLACE, None, cli)
    cli.id, cli.listing = "another", b"81a4 9 1795296116 /sandbox/.openclaw/agents/main/sessions/b.jsonl\n" + LISTING
    with pytest.raises(Unreadable, match="still sandbox"):
        root.look(at_once=True)
    with root.open_dir(SESSIONS) as directory:
        assert b"b.jsonl" not in directory.names()[0]
        with pytest.raises(Unreadable, match="not asked for now"):
            directory.open_file(b"a.jsonl")


def test_what_did_not_change_is_not_confirmed_again() -> None:
    cli = FakeCli()
    root = open_root(PLACE, None, cli)
    root.look(at_once=True)
    assert [call[2] for call in cli.calls] == ["exec", "get", "exec"]


def test_a_shell_that_prints_without_end_is_refused() -> None:
    open_root(PLACE, None, FakeCli(greeting=b"a prompt without a line end: ")).close()
    cli = FakeCli(greeting=b"x" * (64 << 10) + b"\n")
    with pytest.raises(Unreadable, match="did not come to the command"):
        open_root(PLACE, None, cli)


def test_a_refusal_says_what_the_cli_said() -> None:
    cli = FakeCli()
    cli.rc = 1
    with pytest.raises(Unreadable, match=r"exec failed .*: other \(rc 1\)"):
        open_root(PLACE, None, cli)


def test_a_call_that_hangs_stops_the_fetches_until_a_look_goes_well() -> None:
    cli = FakeCli()
    root = open_root(PLACE, None, cli)
    cli.error = CommandError("command stopped", cause="no answer after 5 s")
    with root.open_dir(SESSIONS) as directory:
        for _turn in range(3):
            with pytest.raises(Unreadable):
                directory.open_file(b"a.jsonl")
    assert len(cli.execs()) == 2
    cli.error = None
    root.look(at_once=True)
    with root.open_dir(SESSIONS) as directory:
        os.close(directory.open_file(b"a.jsonl"))


def told(phase: str = "Ready", **changes: Any) -> tuple[Answer, Told]:
    seat = Seat(PLACE.program, PLACE.environment, PLACE.version, PLACE.user, PLACE.group)
    listed = replace(Listed("my-assistant", phase, PLACE.id), **changes)
    answer = Answer("alice", "/home/alice", Registration("nemoclaw"), seat)
    return answer, Told(listed)


@pytest.mark.parametrize(
    ("phase", "changes", "reached"),
    [
        ("Ready", {}, True),
        ("Error", {}, False),
        ("Provisioning", {}, False),
        ("Ready", {"id": None}, False),
        ("Ready", {"exact": False}, False),
        ("Ready", {"name": "-g"}, False),
        ("Ready", {"name": "a b"}, False),
    ],
)
def test_only_what_is_ready_and_surely_named_is_reached(phase: str, changes: dict[str, Any], reached: bool) -> None:
    answer, row = told(phase, **changes)
    assert answer.place_of(row) == (PLACE if reached else None)
    assert replace(answer, seat=None).place_of(row) is None


def test_it_is_the_last_way_and_only_when_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = FakeCli()
    monkeypatch.setattr(openshellexec.open_root, "__defaults__", (cli,))
    sandbox = Sandbox("openshell:nemoclaw:default:3f1c0a52", "my-assistant", "nemoclaw", confirmed=True, cli=PLACE)
    with pytest.raises(Unreadable, match="the exec route is not allowed"):
        open_sandbox(sandbox, routes=("proc", "volume", "archive"))
    assert cli.calls == []
    held = open_sandbox(sandbox, routes=("proc", "exec"))
    assert held.route == "exec" and held.alive() and held.states
    held.close()


def test_the_sample_of_get_tells_the_id_in_every_version() -> None:
    for name in ("openshell-0.0.26-sandbox-get.txt", "openshell-0.0.72-sandbox-get.txt", "openshell-0.0.92-sandbox-get.json"):
        got = parse_get(sample(name))
        assert got is not None and got.id


CLI = r"""#!/bin/sh
# Reads its input to the end before it does anything, as OpenShell's does.
[ -z "$(cat)" ] && [ "$(id -u):$(id -g):$(id -G) $HOME" = "61234:61235:61235 /home/alice" ] || { echo "as $(id) $HOME" >&2; exit 9; }
case "$2" in
get) printf '  Id: 3f1c0a52\n  Name: my-assistant\n' ;;
exec)
    while [ "$1" != -- ]; do shift; done
    shift
    [ -e "%(directory)s/slow" ] && sleep 60
    [ -e "%(directory)s/endless" ] && exec cat /dev/zero
    echo clawmetry-begins-here
    cat "%(directory)s/listing"
    ;;
esac
"""


@pytest.fixture
def program() -> Iterator[Path]:
    """A CLI that another user can start, which pytest's own directories would not let it."""
    directory = Path(tempfile.mkdtemp(prefix="openshell-"))
    directory.chmod(0o755)
    (directory / "listing").write_bytes(LISTING)
    (directory / "openshell").write_text(CLI % {"directory": directory})
    (directory / "openshell").chmod(0o755)
    yield directory / "openshell"
    shutil.rmtree(directory)


@pytest.mark.root
@pytest.mark.spawns
def test_a_real_process_is_the_owner_s_with_nothing_to_read(program: Path) -> None:
    place = replace(PLACE, program=str(program), user=61_234, group=61_235)
    root = open_root(place, None)
    assert len(layout.find_states(root)) == 1
    root.close()
    with pytest.raises(Unreadable, match=r"other \(rc 9\)"):
        open_root(replace(place, user=None), None)


def owners_of_processes() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            found.add(entry.stat().st_uid)
    return found


@pytest.mark.root
@pytest.mark.spawns
@pytest.mark.parametrize(("trouble", "why"), [("slow", "no answer after"), ("endless", "more than 1000000 bytes")])
def test_a_real_process_without_end_is_ended(program: Path, trouble: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawmetry_sync.read.execroute.LISTING_S", 1.0)
    monkeypatch.setattr(openshellexec, "MAX_FILE_BYTES", 0)
    monkeypatch.setattr(openshellexec, "MAX_MORE_BYTES", 1_000_000)
    (program.parent / trouble).touch()
    with pytest.raises(Unreadable, match=why):
        open_root(replace(PLACE, program=str(program), user=61_234, group=61_235), None)
    # Nothing of it is left, as soon as init has taken notice.
    until(lambda: 61_234 not in owners_of_processes(), what="end of the CLI")
