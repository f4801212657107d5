# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stand-ins for ``openshell`` and ``nemoclaw``: the policy verbs, gateway included, as reference/openshell.md §3-5 has them.

A stub is a two-line script that runs this file. Its world is one JSON file: version, sandboxes with
their revisions, a global policy, what to break, and every call that came. They differ by version in
flags (--base, -o), header lines, wrapping and wording of errors, as the captures of 0.0.40 and 0.0.72 do.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

SANDBOX = "my-assistant"
BASE: dict[str, Any] = {
    "version": 1,
    "filesystem_policy": {"include_workdir": True, "read_only": ["/usr", "/lib", "/etc"], "read_write": ["/sandbox", "/tmp", "/srv/agent"]},
    "landlock": {"compatibility": "best_effort"},
    "process": {"run_as_user": "sandbox", "run_as_group": "sandbox"},
    "network_policies": {
        "github_rest_api": {
            "name": "github-rest-api",
            "endpoints": [{"host": "api.github.com", "port": 443, "protocol": "rest", "enforcement": "enforce", "access": "read-only"}],
            "binaries": [{"path": "/usr/bin/gh"}],
        }
    },
}
COMPOSED = {"name": "inference", "endpoints": [{"host": "inference.example", "port": 443}], "binaries": [{"path": "/usr/bin/node"}]}
_ENDPOINT = {"host", "port", "ports", "path", "protocol", "tls", "enforcement", "access", "rules", "deny_rules", "allowed_ips"}


class World:
    """The state behind the stubs, for a test to set up and to look at."""

    def __init__(self, directory: Path, version: str = "0.0.72") -> None:
        self.file = directory / "world.json"
        self.openshell = directory / "openshell"
        self.nemoclaw = directory / "nemoclaw"
        for name, path in (("openshell", self.openshell), ("nemoclaw", self.nemoclaw)):
            path.write_text('#!/bin/sh\nexec "%s" -I "%s" %s "%s" "$@"\n' % (sys.executable, __file__, name, self.file))
            path.chmod(0o755)
        first = {"version": 1, "status": "Superseded", "error": "", "document": {**BASE, "network_policies": {}}}
        second = {"version": 2, "status": "Loaded", "error": "", "document": BASE}
        self.save(
            {
                "version": version,
                "sandboxes": {SANDBOX: [first, second]},
                "global": None,
                "composed": {"_provider_nvidia": COMPOSED},
                "fail": None,  # a text of a policy that does not load
                "deaf": False,  # no sandbox ever confirms
                "reject": None,  # what the gateway answers to any set
                "error": None,  # what the gateway answers to anything
                "march": False,  # NemoClaw before 2026-04-27
                "lossy": False,  # a NemoClaw that loses the other entries
                "custom": {},  # presets NemoClaw knows of
                "calls": [],
            }
        )

    def load(self) -> dict[str, Any]:
        world: dict[str, Any] = json.loads(self.file.read_text())
        return world

    def save(self, world: dict[str, Any]) -> None:
        self.file.write_text(json.dumps(world))

    def set(self, **values: Any) -> None:
        self.save({**self.load(), **values})

    @property
    def revisions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.load()["sandboxes"][SANDBOX]
        return found

    @property
    def policy(self) -> dict[str, Any]:
        """The policy in force."""
        loaded: dict[str, Any] = active(self.revisions)["document"]
        return loaded

    @property
    def writes(self) -> list[list[str]]:
        return [call for call in self.load()["calls"] if "set" in call or "--yes" in call]

    def put(self, document: dict[str, Any]) -> None:
        """Make DOCUMENT the policy in force, as somebody else's revision."""
        world = self.load()
        store(world, SANDBOX, document)
        self.save(world)


def active(revisions: list[dict[str, Any]]) -> dict[str, Any]:
    return [item for item in revisions if item["status"] in ("Loaded", "Superseded")][-1]


def store(world: dict[str, Any], name: str, document: dict[str, Any]) -> dict[str, Any]:
    revisions = world["sandboxes"][name]
    bad = world["fail"] and world["fail"] in json.dumps(document)
    status = "Failed" if bad else "Pending" if world["deaf"] else "Loaded"
    if status == "Loaded":
        for item in revisions:
            item["status"] = "Superseded" if item["status"] == "Loaded" else item["status"]
    error = "policy validation failed: endpoint %s: conflicting tls settings" % world["fail"] if bad else ""
    revisions.append({"version": revisions[-1]["version"] + 1, "status": status, "error": error, "document": document})
    return revisions[-1]


def numbers(world: dict[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, world["version"].split(".")))


def die(text: str, rc: int = 1) -> NoReturn:
    """The CLI's own framing: a cross, box drawing, lines of 80."""
    lines, line = [], "Error:   ×"
    for word in text.split():
        if len(line) + len(word) > 78:
            lines.append(line)
            line = "  │"
        line += " " + word
    sys.stderr.write("\n".join([*lines, line]) + "\n\n")
    sys.exit(rc)


def gateway_error(world: dict[str, Any], code: str, message: str) -> NoReturn:
    long = {"NotFound": "Some requested entity was not found", "Unavailable": "The service is currently unavailable"}
    if numbers(world) < (0, 0, 70):
        metadata = 'metadata: MetadataMap { headers: {"content-type": "application/grpc"} }'
        die('status: %s, message: "%s", details: [], %s' % (code, message, metadata))
    die("code: '%s', message: \"%s\"" % (long.get(code, "The system is not in a state required for the operation's execution"), message))


def usage(flag: str) -> NoReturn:
    sys.stderr.write("error: unexpected argument '%s' found\n\n  tip: to pass '%s' as a value, use '-- %s'\n" % (flag, flag, flag))
    sys.exit(2)


def openshell(world: dict[str, Any], argv: list[str]) -> int:
    version = numbers(world)
    if argv == ["--version"]:
        print("openshell " + world["version"])
        return 0
    if len(argv) < 2 or argv[0] != "policy" or argv[1] not in ("get", "set", "list"):
        usage(argv[0])
    flags: dict[str, str] = {}
    names = []
    rest = iter(argv[2:])
    known = {  # flag: does a value follow?
        "get": {"--rev": 1, "--full": 0, "--global": 0, "-g": 1},
        "set": {"--policy": 1, "--wait": 0, "--timeout": 1, "-g": 1},
        "list": {"-g": 1},
    }
    if version >= (0, 0, 47):
        known["get"]["-o"] = 1
    if version >= (0, 0, 72):
        known["get"]["--base"] = 0
    for item in rest:
        if not item.startswith("-"):
            names.append(item)
        elif item not in known[argv[1]]:
            usage(item)
        else:
            flags[item] = next(rest) if known[argv[1]][item] else ""
    if world["error"]:
        if world["error"] == "no gateway":
            die("No active gateway. Next: openshell gateway add")
        gateway_error(world, *world["error"])
    if "--global" in flags:
        if not world["global"]:
            gateway_error(world, "NotFound", "no global policy")
        print("Version: 1")
        return 0
    if not names or names[0] not in world["sandboxes"]:
        gateway_error(world, "NotFound", "sandbox not found")
    return {"get": get, "set": put, "list": table}[argv[1]](world, names[0], flags)


def get(world: dict[str, Any], name: str, flags: dict[str, str]) -> int:
    version, revisions = numbers(world), world["sandboxes"][name]
    loaded = active(revisions)
    wanted = int(flags.get("--rev", "0"))
    # Until the effective policy was shown, the newest revision was, loaded or not.
    shown = loaded if version >= (0, 0, 47) else revisions[-1]
    if wanted:
        shown = next(item for item in revisions if item["version"] == wanted)
    document = copy.deepcopy(shown["document"])
    if world["global"]:
        document = copy.deepcopy(world["global"])
    if "--base" not in flags:
        document["network_policies"].update(world["composed"])
    source = "global" if world["global"] else "sandbox"
    sha = str(shown["version"]) * 64
    if flags.get("-o") == "json":
        answer = {"active_version": loaded["version"], "config_revision": 7, "hash": sha[:64], "policy_source": source, "sandbox": name}
        answer.update({"scope": "sandbox", "status": "effective", "version": shown["version"]})
        if "--base" in flags or "--full" in flags:
            answer["policy"] = document
        print(json.dumps(answer, indent=2, sort_keys=True))
        return 0
    lines = ["Version:      %d" % shown["version"], "Hash:         " + sha[:64]]
    if version < (0, 0, 47):
        lines += ["Status:       " + shown["status"], "Active:       %d" % loaded["version"], "Created:      1787313100000 ms"]
    else:
        lines += ["Status:       Effective", "Source:       " + source, "Config rev:   7"]
    print("\n".join(lines))
    if "--full" in flags or "--base" in flags:
        print("---\n" + yaml.safe_dump(document, sort_keys=False), end="")
    return 0


def table(world: dict[str, Any], name: str, flags: dict[str, str]) -> int:
    print("VERSION  HASH           STATUS       CREATED                  ERROR")
    for item in reversed(world["sandboxes"][name]):
        error = item["error"][:42] + "..." if len(item["error"]) > 45 else item["error"]
        print("%-8d %-14s %-12s %-24s %s" % (item["version"], str(item["version"]) * 12, item["status"], "1787313100000", error))
    return 0


def put(world: dict[str, Any], name: str, flags: dict[str, str]) -> int:
    document = yaml.safe_load(Path(flags["--policy"]).read_text())
    for key, item in document.get("network_policies", {}).items():
        unknown = set(item) - {"name", "endpoints", "binaries"}
        for endpoint in item.get("endpoints", []):
            unknown |= set(endpoint) - _ENDPOINT
        if unknown:
            die("failed to parse sandbox policy YAML ╰─▶ network_policies.%s: unknown field `%s`" % (key, min(unknown)))
    if world["global"]:
        gateway_error(world, "FailedPrecondition", "a global policy is in force")
    if any(key.startswith("_provider_") for key in document.get("network_policies", {})):
        gateway_error(world, "InvalidArgument", "_provider_ is reserved")
    if world["reject"]:
        gateway_error(world, "InvalidArgument", world["reject"])
    stored = store(world, name, document)
    tick = "\x1b[1m\x1b[32m✓\x1b[39m\x1b[0m"
    sys.stderr.write("%s Policy version %d submitted (hash: %s)\n" % (tick, stored["version"], str(stored["version"]) * 12))
    if "--wait" in flags and stored["status"] == "Failed":
        die("policy version %d failed to load: %s" % (stored["version"], stored["error"]))
    if "--wait" in flags and stored["status"] == "Pending":
        return 124
    if "--wait" in flags:
        sys.stderr.write("%s Policy version %d loaded (active version: %d)\n" % (tick, stored["version"], stored["version"]))
    return 0


BUILTIN = ("npm", "pypi", "github")


def nemoclaw(world: dict[str, Any], argv: list[str]) -> int:
    """`nemoclaw NAME policy-add --from-file F [--dry-run] [--yes]`, `nemoclaw NAME policy-remove PRESET --yes`."""
    name, verb = argv[0], argv[1] if len(argv) > 1 else ""
    if world["march"]:
        print("  Available presets:")  # no flag is known, and nobody answers the question
        return 0
    if verb == "policy-remove":
        print("  Preset not found", file=sys.stderr)
        return 0
    if verb != "policy-add" or "--from-file" not in argv:
        return 1
    path = argv[argv.index("--from-file") + 1]
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as stream:
            text = stream.read()
    except OSError as exc:
        print("  Cannot read %s: %s" % (path, exc.strerror), file=sys.stderr)
        return 1
    match = re.search(r"^network_policies:", text, re.MULTILINE)
    document = yaml.safe_load(text)
    preset = document["preset"]["name"]
    if not match or not re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", preset) or "allowed_ips" in text or "_provider_" in text:
        print("  Invalid preset", file=sys.stderr)
        return 1
    if preset in (*BUILTIN, *world.get("builtin", ())):
        print("  Preset name '%s' collides with a built-in preset." % preset, file=sys.stderr)
        return 1
    hosts = ", ".join(point["host"] for item in document["network_policies"].values() for point in item["endpoints"])
    print("  [%s] Endpoints that would be opened: %s" % (preset, hosts))
    if "--dry-run" in argv:
        return 0
    if "--yes" not in argv:
        return 1
    merged = copy.deepcopy(active(world["sandboxes"][name])["document"])
    if world["lossy"]:
        merged["network_policies"] = {}
    merged["network_policies"].update(document["network_policies"])
    stored = store(world, name, merged)
    if stored["status"] != "Loaded":
        print("  openshell policy set failed", file=sys.stderr)
        return 1
    world["custom"][preset] = text
    print("  Applied preset: " + preset)
    return 0


def main() -> int:
    command, file, argv = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    world = json.loads(file.read_text())
    world["calls"].append([command, *argv])
    try:
        return {"openshell": openshell, "nemoclaw": nemoclaw}[command](world, argv)
    finally:
        file.write_text(json.dumps(world))


if __name__ == "__main__":
    sys.exit(main())
