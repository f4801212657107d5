# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asking a user's openshell: which words, as whom, how often, and what a CLI that fails or hangs costs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync import run
from clawmetry_sync.discover import openshellcli
from clawmetry_sync.discover.accounts import Account
from clawmetry_sync.discover.binaries import Lookups
from clawmetry_sync.discover.openshellcli import Answer, Cli, Registration
from clawmetry_sync.errors import CommandError
from clawmetry_sync.model import Inference
from support.samples import sample
from support.stubcli import StubCli, register_gateway

pytestmark = pytest.mark.spawns

SLEEPY_S = 0.5


class Host:
    """A made-up host of one user with one CLI; time is ours."""

    def __init__(self, root: Path, version: str, unknown: str = "", uid: int = -1) -> None:
        self.root = root
        self.home = root / "home/alice"
        (root / "usr/bin").mkdir(parents=True)
        self.home.mkdir(parents=True)
        uid = os.getuid() if uid < 0 else uid
        self.alice = Account("alice", uid, "/home/alice", str(self.home), uid)
        self.stub = StubCli(root / "usr/bin/openshell", version="openshell " + version, unknown=unknown)
        self.now = 1000.0
        self.moved = 0.0
        self.lookups = Lookups(root=str(root), runner=run.run, euid=os.geteuid(), clock=self.clock)
        self.cli = Cli(self.lookups, run.run, euid=os.geteuid(), clock=self.clock)

    def clock(self) -> float:
        """Ours plus what really passes, so that budgets are real."""
        return self.now + time.monotonic()

    def ask(self, labelled: frozenset[str] = frozenset()) -> tuple[Answer, list[str]]:
        answers, warnings = self.cli.ask([self.alice], labelled)
        assert len(answers) == 1
        return answers[0], warnings

    def listed(self) -> list[tuple[str, ...]]:
        return [call.words[2:] for call in self.stub.calls() if call.words[:2] == ("sandbox", "list")]


@pytest.fixture
def place() -> Iterator[Path]:
    """Readable for other users, which pytest's own directories are not."""
    path = Path(tempfile.mkdtemp(prefix="cli-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def host(place: Path, version: str = "0.0.72", **options: Any) -> Host:
    made = Host(place, version, **options)
    register_gateway(made.home)
    made.stub.says("sandbox-list", sample("openshell-0.0.72-sandbox-list.json"))
    made.stub.says("status", sample("openshell-0.0.72-status.txt"))
    made.stub.says("inference-get", sample("openshell-0.0.26-inference.txt"))
    made.stub.says("policy-get", sample("openshell-0.0.72-policy-base.json"))
    return made


def test_everything_a_gateway_tells(place: Path) -> None:
    made = host(place)
    answer, warnings = made.ask()
    assert warnings == [] and answer.error is None and answer.user == "alice" and answer.client == "0.0.72"
    assert answer.gateway == Registration("nemoclaw", 8080, False, "plaintext", True)
    assert answer.status.version == "0.0.72" and answer.inference == Inference("nvidia-prod", "nvidia/nemotron-3-super-120b-a12b")
    told = answer.sandboxes or ()
    assert [(one.listed.name, one.listed.id, one.listed.phase) for one in told] == [
        ("my-assistant", "4b7e11d0", "Ready"),
        ("researcher", "77aa0c3f", "Error"),
    ]
    assert told[0].policy is not None and told[0].policy.networks == ("npm_yarn", "github")
    assert made.stub.writes() == ""


@pytest.mark.parametrize(
    ("version", "words", "output"),
    [
        ("0.0.26", (), "openshell-0.0.26-sandbox-list.txt"),
        ("0.0.40", (), "openshell-0.0.40-sandbox-list.txt"),
        ("0.0.44", ("-o", "json"), "openshell-0.0.72-sandbox-list.json"),
        ("0.0.87", ("-o", "json"), "openshell-0.0.72-sandbox-list.json"),
        ("0.0.88", ("--all-workspaces", "-o", "json"), "openshell-0.0.111-sandbox-list.json"),
        ("0.1.9", ("--all-workspaces", "-o", "json"), "openshell-0.0.111-sandbox-list.json"),
    ],
)
def test_list_s_words_by_version(place: Path, version: str, words: tuple[str, ...], output: str) -> None:
    made = host(place, version)
    made.stub.says("sandbox-list", sample(output))
    answer, _warnings = made.ask()
    assert made.listed() == [("-g", "nemoclaw", "--limit", "1000", "--offset", "0", *words)]
    assert answer.sandboxes and answer.error is None


@pytest.mark.parametrize(
    ("unknown", "output", "last"),
    [
        ("--all-workspaces", "openshell-0.0.72-sandbox-list.json", ("-o", "json")),
        ("--all-workspaces -o", "openshell-0.0.26-sandbox-list.txt", ()),
    ],
)
def test_cli_older_than_it_says_is_asked_in_older_words(place: Path, unknown: str, output: str, last: tuple[str, ...]) -> None:
    made = host(place, "nightly", unknown=unknown)
    made.stub.says("sandbox-list", sample(output))
    answer, warnings = made.ask()
    assert made.listed()[-1][6:] == last and answer.sandboxes and answer.error is None and warnings == []


def test_more_than_a_page_is_asked_page_by_page(place: Path) -> None:
    made = host(place)
    page = [{"id": "i%d" % n, "name": "box-%d" % n, "phase": "Ready"} for n in range(2100)]
    for start in (0, 1000, 2000):
        made.stub.says("sandbox-list@%d" % start, json.dumps(page[start : start + 1000]).encode())
    answer, _warnings = made.ask()
    assert [words[5] for words in made.listed()] == ["0", "1000", "2000"]
    assert len(answer.sandboxes or ()) == 2100
    # Nobody waits for thousands of policies: some now, more with the next list.
    assert made.stub.verbs().count("policy get") == openshellcli.MAX_DETAILS


def test_every_sandbox_s_policy_has_its_turn_however_many_there_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unasked first, so that those at the front of the list, due again, do not keep the others waiting."""
    monkeypatch.setattr(openshellcli, "MAX_DETAILS", 3)
    made = host(place)
    rows = [{"id": "i%d" % n, "name": "box-%d" % n, "phase": "Ready"} for n in range(8)]
    rows.insert(0, {"id": "odd", "name": "not an operand", "phase": "Ready"})
    made.stub.says("sandbox-list", json.dumps(rows).encode())
    for _pass in range(3):
        answer, _warnings = made.ask()
        made.now += openshellcli.DETAILS_EVERY_S
    asked = [call.words[-1] for call in made.stub.calls() if call.words[:2] == ("policy", "get")]
    assert asked == ["box-%d" % n for n in (0, 1, 2, 3, 4, 5, 6, 7, 0)]
    assert all(told.policy is not None for told in (answer.sandboxes or ())[1:])


def test_a_policy_that_hangs_does_not_keep_the_others_from_their_turn(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openshellcli, "CALL_TIMEOUT_S", SLEEPY_S)
    made = host(place)
    rows = [{"id": "i%d" % n, "name": "box-%d" % n, "phase": "Ready"} for n in range(3)]
    made.stub.says("sandbox-list", json.dumps(rows).encode())
    made.stub.hangs("policy-get:box-0")
    for _pass in range(2):
        answer, _warnings = made.ask()
        made.now += openshellcli.RETRY_HUNG_S
    assert [told.policy is not None for told in answer.sandboxes or ()] == [False, True, True]


def test_answers_are_kept_for_a_minute_and_details_for_ten(place: Path) -> None:
    made = host(place)
    for _pass in range(3):
        made.ask()
    assert made.stub.verbs() == ["--version", "sandbox list", "status -g nemoclaw", "inference get", "policy get", "policy get"]
    made.now += openshellcli.LIST_EVERY_S
    made.ask()
    assert made.stub.verbs()[6:] == ["sandbox list"]
    newer = json.loads(sample("openshell-0.0.72-sandbox-list.json"))
    newer[0]["current_policy_version"] = 3
    made.stub.says("sandbox-list", json.dumps(newer).encode())
    made.now += openshellcli.LIST_EVERY_S
    made.ask()
    assert made.stub.verbs()[7:] == ["sandbox list", "policy get"]


def test_policy_words_by_version_and_names_after_two_dashes(place: Path) -> None:
    made = host(place)
    made.ask()
    calls = [call.words[2:] for call in made.stub.calls() if call.words[0] == "policy"]
    assert calls[0] == ("-g", "nemoclaw", "--base", "-o", "json", "--", "my-assistant")


def test_old_policy_text(place: Path) -> None:
    made = host(place, "0.0.26")
    made.stub.says("sandbox-list", sample("openshell-0.0.26-sandbox-list.txt"))
    made.stub.says("sandbox-get:my-assistant", sample("openshell-0.0.26-sandbox-get.txt"))
    made.stub.says("policy-get", sample("openshell-0.0.26-policy-full.txt"))
    answer, _warnings = made.ask(frozenset({"build-7"}))
    first, second = (answer.sandboxes or ())[:2]
    # The id is asked where no label tells it.
    assert (first.listed.id, second.listed.id) == ("4b7e11d0", None)
    assert first.policy is not None and first.policy.networks == ("npm_yarn", "quoted key")
    calls = [call.words for call in made.stub.calls()]
    assert ("policy", "get", "-g", "nemoclaw", "--full", "--", "my-assistant") in calls
    assert ("sandbox", "get", "-g", "nemoclaw", "--", "build-7") not in calls
    assert not any("two words here" in word or "bücher" in word for words in calls for word in words)


def test_workspace_is_named_where_there_are_workspaces(place: Path) -> None:
    made = host(place, "0.0.111")
    made.stub.says("sandbox-list", sample("openshell-0.0.111-sandbox-list.json"))
    made.ask()
    calls = [call.words[2:] for call in made.stub.calls() if call.words[0] == "policy"]
    assert calls[1] == ("-g", "nemoclaw", "--base", "-o", "json", "--workspace", "night", "--", "build-7")


@pytest.mark.parametrize("name", ["-g", "--help", "../../etc", "$(touch x)", "a b", "a;b", "\x1b[31m", "ünï", "a" * 300, "", "a\nb"])
def test_hostile_name_is_never_an_operand(place: Path, name: str) -> None:
    made = host(place)
    made.stub.says("sandbox-list", json.dumps([{"id": "1", "name": name, "phase": "Ready"}]).encode())
    made.ask()
    assert made.stub.verbs().count("policy get") == 0


@pytest.mark.parametrize(
    ("rc", "stderr", "kind", "warns"),
    [
        (1, b"Error:   x transport error\n tcp connect error\n Connection refused (os error 111)\n", "unreachable", False),
        (1, b"Error:   x No active gateway.\n", "no_gateway", False),
        (1, b"Error:   x status: Unauthenticated, message\n", "unauthenticated", True),
        (1, b"Error:   x status: PermissionDenied, message\n", "denied", True),
        (1, b"Error:   x status: Unavailable, message\n", "unavailable", False),
        (101, b"thread 'main' panicked\n", "other", True),
    ],
)
def test_failures_have_a_kind_and_are_not_repeated_at_once(place: Path, rc: int, stderr: bytes, kind: str, warns: bool) -> None:
    made = host(place)
    made.stub.says("sandbox-list", rc=rc, err=stderr)
    for _pass in range(3):
        answer, warnings = made.ask()
        assert (answer.error, answer.sandboxes, bool(warnings)) == (kind, None, warns)
    assert made.stub.verbs() == ["--version", "sandbox list"]


def test_what_was_told_before_a_failure_is_kept_and_marked(place: Path) -> None:
    made = host(place)
    made.ask()
    made.stub.says("sandbox-list", rc=1, err=b"Error: transport error\n")
    made.now += openshellcli.LIST_EVERY_S
    answer, _warnings = made.ask()
    assert answer.error == "unreachable" and len(answer.sandboxes or ()) == 2


def test_unreadable_list_is_a_failure(place: Path) -> None:
    made = host(place)
    made.stub.says("sandbox-list", b"something new\n")
    answer, warnings = made.ask()
    assert answer.error == "other" and "no list" in warnings[0]


def test_cli_that_never_answers_is_killed_and_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openshellcli, "CALL_TIMEOUT_S", SLEEPY_S)
    made = host(place)
    made.stub.hangs("sandbox-list")
    began = time.monotonic()
    for _pass in range(5):
        answer, warnings = made.ask()
        assert answer.error == "hangs" and "no answer after" in warnings[0]
    assert time.monotonic() - began < 6 * SLEEPY_S
    assert made.stub.verbs() == ["--version", "sandbox list"]
    made.now += openshellcli.RETRY_HUNG_S
    made.ask()
    assert made.stub.verbs() == ["--version", "sandbox list", "sandbox list"]


def test_many_hanging_gateways_share_one_budget(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openshellcli, "CALL_TIMEOUT_S", SLEEPY_S)
    monkeypatch.setattr(openshellcli, "BUDGET_S", 2 * SLEEPY_S)
    made = host(place)
    for number in range(12):
        register_gateway(made.home, "gw-%d" % number, 9000 + number, active=False)
    made.stub.hangs("sandbox-list")
    began = time.monotonic()
    answers, _warnings = made.cli.ask([made.alice])
    assert time.monotonic() - began < 4 * SLEEPY_S
    assert len(answers) == openshellcli.MAX_GATEWAYS and {answer.error for answer in answers} == {"hangs", "budget"}
    # The next pass asks those that were not asked.
    before = made.stub.verbs().count("sandbox list")
    made.cli.ask([made.alice])
    assert made.stub.verbs().count("sandbox list") > before


def test_hang_in_the_details_keeps_the_list(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openshellcli, "CALL_TIMEOUT_S", SLEEPY_S)
    made = host(place)
    made.stub.hangs("policy-get")
    answer, _warnings = made.ask()
    assert answer.error is None and len(answer.sandboxes or ()) == 2 and made.stub.verbs().count("policy get") == 1


def test_verb_that_is_not_listed_as_reading_is_not_run(place: Path) -> None:
    made = host(place)
    made.cli.ask([made.alice])
    seat, why = made.cli._seat(made.alice)
    assert seat is not None and why == ""
    for words in (["gateway", "select", "x"], ["sandbox", "exec", "-n", "x"], ["sandbox", "connect"], ["policy", "set"], ["listx"]):
        with pytest.raises(CommandError, match="not a reading verb"):
            made.cli._run(seat, words)


@pytest.mark.root
def test_root_asks_as_the_owner_with_the_owner_s_home(place: Path) -> None:
    made = host(place, uid=12345)
    for path in (made.home, made.home / ".config", made.home / ".config/openshell"):
        os.chown(path, 12345, 12345)
    answer, _warnings = made.ask()
    assert answer.error is None and answer.sandboxes
    assert {(call.uid, call.home, call.config) for call in made.stub.calls()} == {(12345, str(made.home), str(made.home) + "/.config")}


@pytest.mark.root
def test_owner_s_own_binary_is_run_as_the_owner_only(place: Path) -> None:
    made = host(place, uid=12345)
    own = made.home / ".local/bin"
    own.mkdir(parents=True)
    shutil.move(made.stub.program, own / "openshell")
    for path in (made.home, made.home / ".local", own, own / "openshell"):
        os.chown(path, 12345, 12345)
    answer, _warnings = made.ask()
    assert answer.error is None and {call.uid for call in made.stub.calls()} == {12345}
    os.chown(own / "openshell", 54321, 54321)
    made.now += 3600
    answer, _warnings = made.ask()
    assert answer.error == "not_asked" and "not run" in answer.detail


def test_binary_that_anybody_may_write_is_not_run(place: Path) -> None:
    made = host(place)
    made.stub.program.chmod(0o777)
    answer, _warnings = made.ask()
    assert answer.error == "not_asked" and "others may write" in answer.detail and made.stub.calls() == []


def test_service_user_asks_nobody_else_s_cli(place: Path) -> None:
    made = host(place)
    cli = Cli(made.lookups, run.run, euid=os.getuid() + 4711)
    answers, _warnings = cli.ask([made.alice])
    assert answers[0].error == "not_asked" and "only root or alice" in answers[0].detail and made.stub.calls() == []


def test_many_accounts_without_a_gateway_hide_no_user_who_has_one(place: Path) -> None:
    made = host(place)
    homes = ["/home/u%d" % number for number in range(100)]
    others = [Account(home[6:], 5000, home, str(place) + home, 5000) for home in homes]
    answers, warnings = made.cli.ask([*others, made.alice])
    assert [answer.user for answer in answers] == ["alice"] and warnings == []


def test_no_binary_is_said(place: Path) -> None:
    made = host(place)
    made.stub.program.unlink()
    assert made.ask()[0].detail == "no openshell binary"


def test_user_without_a_gateway_is_not_asked(place: Path) -> None:
    made = Host(place, "0.0.72")
    assert made.cli.ask([made.alice]) == ((), []) and made.stub.calls() == []


@pytest.mark.parametrize(
    ("version", "output", "words"),
    [("0.0.40", "openshell-0.0.40-gateway-list.txt", 2), ("0.1.9", "openshell-0.0.72-gateway-list.json", 4)],
)
def test_configuration_of_another_shape_is_asked_for_its_gateways(place: Path, version: str, output: str, words: int) -> None:
    made = Host(place, version)
    (made.home / ".config/openshell").mkdir(parents=True)
    made.stub.says("gateway-list", sample(output))
    made.stub.says("sandbox-list", b"No sandboxes found.\n")
    answers, _warnings = made.cli.ask([made.alice])
    assert answers[0].gateway == Registration("nemoclaw", 8080, active=True) and answers[0].sandboxes == ()
    assert [len(call.words) for call in made.stub.calls() if call.words[0] == "gateway"] == [words]


def test_gateways_are_read_from_the_configuration_and_no_key_beside_it(place: Path) -> None:
    made = Host(place, "0.0.72")
    register_gateway(made.home, "nemoclaw-18080", 18080)
    (made.home / ".config/openshell/gateways/-g").mkdir()
    (made.home / ".config/openshell/gateways/-g/metadata.json").write_text("{}")
    (made.home / ".config/openshell/gateways/broken").mkdir()
    (made.home / ".config/openshell/gateways/broken/metadata.json").write_text("[")
    (made.home / ".config/openshell/gateways/linked").symlink_to(made.home / ".config/openshell/gateways/nemoclaw-18080")
    system = place / "etc/openshell/gateways/site"
    system.mkdir(parents=True)
    (system / "metadata.json").write_text('{"name": "site", "gateway_endpoint": "https://10.0.0.1:17670", "is_remote": true}')
    assert openshellcli.registrations(made.alice, str(place)) == (
        Registration("nemoclaw-18080", 18080, False, "plaintext", True),
        Registration("site", 17670, True, None, False),
    )


def test_linked_configuration_directory_is_refused_with_a_warning(place: Path) -> None:
    made = Host(place, "0.0.72")
    (place / "elsewhere").mkdir()
    (made.home / ".config").mkdir()
    (made.home / ".config/openshell").symlink_to(place / "elsewhere")
    answers, warnings = made.cli.ask([made.alice])
    assert answers == () and "gateways not readable" in warnings[0]


@given(st.binary(max_size=300))
def test_any_metadata_is_a_registration_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert openshellcli.parse_metadata(data, "x").name == "x"
