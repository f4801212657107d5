# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the real programs printed and wrote, every file of it: three OpenShell CLIs, NemoClaw of two eras, two OpenClaw stores.

The captures are not ours to ship. They are read where they lie: beside the checkout, in shared/fixtures, or where
TEST_CAPTURES says; everywhere else the hand-made samples of tests/fixtures stand for them in the tests of each parser.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync.discover import nemoclawcli, openshellcli
from clawmetry_sync.discover import openshelltext as text
from clawmetry_sync.discover.binaries import parse_version
from clawmetry_sync.discover.nemoclaw import parse_registry
from clawmetry_sync.model import Inference
from support.daemon import Daemon
from support.ingest import Ingest, canonical

CAPTURES = Path(os.environ.get("TEST_CAPTURES", Path(__file__).resolve().parents[2].parent / "shared" / "fixtures"))
pytestmark = pytest.mark.skipif(not CAPTURES.is_dir(), reason="no real captures beside this checkout")

OPENSHELL = ["0.0.26", "0.0.40", "0.0.72"]
ROUTE = Inference("nvidia-inference", "nvidia/nemotron-3-super-120b-a12b")
NETWORKS = ("clawmetry_ingest", "github_rest_api")
ID = "3f1c2b7a-9d44-4c1e-8a55-000000000001"
# Printed by verbs the engine never uses, or in forms it never asks for.
NOT_OURS = re.compile(
    r"gateway-(?:add|select|info)|provider-\w+(?:-json)?|logs|rule-get|workspace-list|policy-(?:update|set)-?\w*|policy-list"
    r"|unreachable-gateway-info|exec-(?:echo|binary|stderr-rc7)|sandbox-list-(?:names|ids|yaml)|many-names(?:-limit1000)?"
    r"|sandbox-get-policy-only"
)


class Cli:
    """The captures of one version: output, errors and exit code by name."""

    def __init__(self, version: str) -> None:
        self.live = CAPTURES / "openshell" / version / "live"
        rows = [line.split("\t") for line in (self.live / "INDEX.tsv").read_text().splitlines()]
        self.rc = {row[0]: int(row[1].partition("=")[2]) for row in rows}
        self.names = sorted({path.name.rpartition(".")[0] for path in self.live.iterdir() if path.suffix in (".stdout", ".stderr")})

    def out(self, name: str) -> bytes:
        return (self.live / (name + ".stdout")).read_bytes()

    def kind(self, name: str) -> str:
        return text.error_kind(self.rc[name], (self.live / (name + ".stderr")).read_bytes())

    def boxes(self) -> list[str]:
        return self.out("sandbox-list-names").decode().splitlines()


def check(cli: Cli, name: str) -> None:
    """One capture gives what its own words say."""
    out, failed = cli.out(name), cli.rc.get(name, 0) != 0
    if NOT_OURS.fullmatch(name):
        assert text.parse_list(out) is None or name.startswith("provider")
    elif failed:
        assert text.parse_list(out) is None and text.parse_inference(out) is None
        expected = {
            "sandbox-get-missing": "not_found", "exec-missing": "not_found", "exec-notready": "other", "policy-get-global": "not_found",
            "unreachable-sandbox-list": "unreachable", "unreachable-status": "unreachable", "hang-sandbox-list": "unavailable",
            "fail-UNAUTHENTICATED-sandbox-list": "unauthenticated", "fail-PERMISSION_DENIED-sandbox-list": "denied",
            "fail-UNAVAILABLE-sandbox-list": "unavailable",
        }.get(name, "usage" if cli.rc[name] == 2 else "unreachable")  # fmt: skip
        # One that never answered was killed by a clock, and said nothing.
        assert cli.kind(name) == ("other" if cli.rc[name] == 124 else expected)
    elif name.startswith("sandbox-list"):
        rows = text.parse_list(out)
        assert rows is not None and [row.name for row in rows] == cli.boxes()[: 2 if name.endswith("limit2") else None]
        assert {"Ready", "Provisioning"} & {row.phase for row in rows}
        if name.endswith("json"):
            assert [row.id for row in rows] == cli.out("sandbox-list-ids").decode().split()
    elif name.startswith("sandbox-get"):
        got = text.parse_get(out)
        assert got is not None and (got.name, got.phase, got.id) == ("my-assistant", "Ready", ID)
    elif name.startswith("policy-get"):
        policy = text.parse_policy(out)
        assert policy.version == 2 and (policy.status or "").lower() in ("loaded", "effective")
        assert policy.networks == (NETWORKS if "full" in name or "base" in name else None)
        assert policy.in_force is (True if policy.networks else None)
    elif name.startswith("inference-get"):
        assert text.parse_inference(out) == ROUTE
    elif name.startswith("gateway-list"):
        assert text.parse_gateways(out) == (text.Gateway("fake", "http://127.0.0.1:8080", True),)
    elif name == "status":
        assert text.parse_status(out) == text.Status("fake", True, "0.0.111")
    else:
        raise AssertionError("a capture that no check knows: " + name)


@pytest.mark.parametrize("version", OPENSHELL)
def test_every_capture_of_openshell_is_read_right(version: str) -> None:
    cli = Cli(version)
    assert len(cli.names) >= 50
    for name in cli.names:
        try:
            check(cli, name)
        except AssertionError as exc:
            raise AssertionError("%s: %s" % (name, exc)) from exc
    said = (cli.live.parent / "help" / "version.stdout").read_bytes()
    assert parse_version(said) == version
    # The configuration it left is a registration.
    tree = (cli.live / "config-tree.txt").read_text()
    files = dict(re.findall(r"==> (\S+) <==\n(.*?)(?=\n==>|\Z)", tree, re.DOTALL))
    found = openshellcli.parse_metadata(files["gateways/fake/metadata.json"].encode(), "fake")
    assert (found.name, found.port, found.remote) == ("fake", 8080, False)


@pytest.mark.parametrize("version", OPENSHELL)
def test_the_words_we_use_are_in_the_help_of_each_version(version: str) -> None:
    """What is asked of a version is what that version knows."""
    folder = CAPTURES / "openshell" / version / "help"
    numbers = tuple(int(part) for part in version.split("."))
    expected = {
        "sandbox-list": {"--limit": True, "--offset": True, "--output": numbers >= (0, 0, 44)},
        "policy-get": {"--full": True, "--base": numbers >= (0, 0, 72), "--output": numbers >= (0, 0, 47)},
        "sandbox-exec": {"--name": True, "--no-tty": True, "--timeout": True, "--gateway": True, "--workspace": False},
    }
    for verb, words in expected.items():
        said = (folder / ("help-%s.stdout" % verb)).read_text()
        assert {word: re.search(r"(?m)^\s+(?:-\w, )?%s\b" % word, said) is not None for word in words} == words


@pytest.mark.parametrize("era", ["march", "july"])
def test_every_capture_of_nemoclaw_is_read_right(era: str) -> None:
    folder = CAPTURES / "nemoclaw" / era
    model = "nvidia/nemotron-3-super-120b-a12b"
    for path in sorted(folder.glob("*.stdout")):
        name, out = path.name.partition(".")[0], path.read_bytes()
        if name.startswith(("list", "status")):
            found = nemoclawcli.parse_listing(out)
            assert found is not None, name
            assert [(row.name, row.default) for row in found.sandboxes] == [("my-assistant", True), ("researcher", False)], name
            assert found.sandboxes[0].inference.model == model, name
            assert not name.startswith("list") or [row.policies for row in found.sandboxes] == [("npm", "pypi"), ()], name
        elif name.startswith("name-status"):
            one = nemoclawcli.parse_one(out, "my-assistant")
            assert one is not None and (one.phase, one.policies, one.inference.model) == ("Ready", ("npm", "pypi"), model), name
            assert nemoclawcli.parse_one(out, "researcher") is None
        elif name == "version":
            assert parse_version(out) is not None
        else:
            # Verbs that are not used: no list is read out of them.
            assert name.startswith(("policy-", "inference-")), "a capture that no check knows: " + name
            assert nemoclawcli.parse_listing(out) is None and nemoclawcli.parse_one(out, "my-assistant") is None, name
    registry = parse_registry((folder / "sandboxes.input.json").read_bytes())
    written: dict[str, Any] = json.loads((folder / "sandboxes.input.json").read_bytes())
    assert [entry.name for entry in registry.entries] == list(written["sandboxes"]) and not registry.skipped
    assert registry.default == written["defaultSandbox"] == "my-assistant"
    for entry in registry.entries:
        row = written["sandboxes"][entry.name]
        assert (entry.inference.provider, entry.inference.model) == (row.get("provider"), row.get("model"))
        assert entry.policies == (tuple(row["policies"]) if isinstance(row.get("policies"), list) else None)
        assert (entry.agent, entry.gateway) == (row.get("agent") or "openclaw", "nemoclaw")


def lines(data: bytes) -> list[str]:
    return [canonical(json.loads(line)) for line in data.split(b"\n") if line]


@pytest.mark.spawns
@pytest.mark.network
@pytest.mark.parametrize("version", ["2026.3.24", "2026.9.6"])
def test_every_event_of_an_openclaw_store_arrives_once(tmp_path: Path, version: str) -> None:
    store = CAPTURES / "openclaw" / version
    state = tmp_path / "home/.openclaw"
    shutil.copytree(store / "agents", state / "agents")
    shutil.copytree(store / "workspace", state / "workspace")
    for path in [state, *state.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    sessions = state / "agents/main/sessions"
    expected = [line for path in sorted(sessions.glob("*.jsonl*")) if path.suffix != ".zst" for line in lines(path.read_bytes())]
    for path in sorted(store.glob("*.jsonl")):  # what the database and the packed archive hold, as the capture unpacked them
        expected += lines(path.read_bytes())
    assert len(expected) > 50
    with Ingest() as ingest:
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, discover=["openclaw"], homes=[str(tmp_path / "home")])
        result = daemon.json("sync")
        assert result["ok"] and result["quarantined"] == 0, result
        # The copy that was unpacked had its home renamed.
        arrived = {re.sub(r"/tmp/[\w-]+/home\d+/", "/home/user/", event) for event in ingest.all_events()}
        assert arrived == set(expected) and ingest.duplicate_events == 0
        facts = daemon.json("snapshot")["sandboxes"][0]
        assert facts["readable"] and facts["store"] == ("jsonl" if version == "2026.3.24" else "sqlite") and facts["reason"] is None
        memory = {entry["path"] for sent in ingest.memory for entry in sent["memory_content"]}
        here = {str(path.relative_to(store / "workspace")) for path in store.glob("workspace/**/*.md")}
        assert memory == {name for name in here if not name.startswith("notes/")}
        ingest.check()
