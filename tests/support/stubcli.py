# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A CLI that answers from files, writes down every call, and shouts when it is asked to change something."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

SCRIPT = """#!/bin/sh
# $1 is the verb; answers lie in %(answers)s as <key>.out, .err, .rc, or <key>.hang.
log=%(log)s
{ printf '%%s\\037' "$0" "$@"; printf 'uid=%%s\\037HOME=%%s\\037XDG=%%s\\n' "$(id -u)" "$HOME" "$XDG_CONFIG_HOME"; } >>"$log"
verb=$1
case "$1" in sandbox|policy|inference|gateway) verb="$1-$2" ;; esac
case " %(reads)s " in
*" $verb "*) ;;
*) case "${2:-} ${3:-}" in "status --json"|"status ") verb="name-status" ;; *) echo "WRITES $*" >>"$log.writes"; exit 3 ;; esac ;;
esac
offset=0 prev= last= gateway= name=$1
for word in "$@"; do
    case " %(unknown)s " in *" $word "*) echo "error: unexpected argument '$word' found" >&2; exit 2 ;; esac
    [ "$prev" = --offset ] && offset=$word
    [ "$prev" = -g ] && gateway=$word
    prev=$word last=$word
done
for key in "$verb+$gateway" "$verb@$offset" "$verb:$last" "$verb:$name" "$verb"; do
    case "$key" in */*) continue ;; esac
    f="%(answers)s/$key"
    [ -e "$f.hang" ] && { sleep 60 & wait; }
    if [ -e "$f.out" ] || [ -e "$f.rc" ]; then
        [ -e "$f.out" ] && cat "$f.out"
        [ -e "$f.err" ] && cat "$f.err" >&2
        [ -e "$f.rc" ] && exit "$(cat "$f.rc")"
        exit 0
    fi
done
echo "Error:   x status: NotFound, message: \\"$verb\\"" >&2
exit 1
"""
OPENSHELL_READS = "--version status sandbox-list sandbox-get policy-get inference-get gateway-list"
NEMOCLAW_READS = "--version list status"


class Call(NamedTuple):
    """One run of a stub: its words after the program, and as whom and with which configuration it ran."""

    words: tuple[str, ...]
    uid: int
    home: str
    config: str


class StubCli:
    """``stub.says("sandbox-list", b"…")``; keys may end with ``+<gateway>``, ``@<offset>`` or ``:<last word or sandbox>``."""

    def __init__(self, program: Path, *, version: str, reads: str = OPENSHELL_READS, unknown: str = "") -> None:
        self.program = program
        self.directory = program.parent / (program.name + ".d")
        self.answers = self.directory / "answers"
        self.answers.mkdir(parents=True)
        self.log = self.directory / "log"
        for path in (self.log, self.directory / "log.writes"):
            path.touch()
            path.chmod(0o666)
        values = {"log": self.log, "answers": self.answers, "reads": reads, "unknown": unknown or "-none-"}
        program.write_text(SCRIPT % values, encoding="utf-8")
        program.chmod(0o755)
        self.says("--version", version.encode() + b"\n")

    def says(self, key: str, out: bytes = b"", *, rc: int = 0, err: bytes = b"") -> None:
        (self.answers / (key + ".out")).write_bytes(out)
        (self.answers / (key + ".err")).write_bytes(err)
        (self.answers / (key + ".rc")).write_text(str(rc), encoding="utf-8")

    def forgets(self, key: str) -> None:
        for end in (".out", ".err", ".rc", ".hang"):
            (self.answers / (key + end)).unlink(missing_ok=True)

    def hangs(self, key: str) -> None:
        (self.answers / (key + ".hang")).touch()

    def calls(self) -> list[Call]:
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            *words, uid, home, config = line.split("\037")
            found.append(Call(tuple(words[1:]), int(uid.partition("=")[2]), home.partition("=")[2], config.partition("=")[2]))
        return found

    def verbs(self) -> list[str]:
        groups = ("sandbox", "policy", "inference", "gateway")
        return [" ".join(call.words[: 2 if call.words[0] in groups else None]) for call in self.calls()]

    def writes(self) -> str:
        return (self.directory / "log.writes").read_text(encoding="utf-8")


def register_gateway(home: Path, name: str = "nemoclaw", port: int = 8080, *, active: bool = True) -> None:
    """What ``openshell gateway add`` leaves in a home, with a key beside it that nobody may read."""
    place = home / ".config/openshell/gateways" / name
    (place / "mtls").mkdir(parents=True)
    endpoint = "http://127.0.0.1:%d" % port
    said = {"name": name, "gateway_endpoint": endpoint, "is_remote": False, "gateway_port": 0, "auth_mode": "plaintext"}
    (place / "metadata.json").write_text(json.dumps(said))
    os.mkfifo(place / "mtls/tls.key")
    if active:
        (home / ".config/openshell/active_gateway").write_text(name + "\n")
