# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Where we are and what we may: host or sandbox, capabilities, clock.

Sources: capabilities(7), linux/capability.h; design.md "Routes into a sandbox"; reference/openshell.md §5 "Proxy/TLS in sandbox".
"""

from __future__ import annotations

import os
import sys
import time
from typing import Optional

from ..egress import render, rule
from ..errors import ConfigError, shown
from .check import FAIL, OK, WARN, Check, Ground

CAPABILITIES = {"CAP_DAC_READ_SEARCH": 2, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_CHROOT": 18, "CAP_SYS_PTRACE": 19}
FOR_PROC = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
FOR_SQLITE = (*FOR_PROC, "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID")
# No clock of a host that runs this release can be before it was made.
EARLIEST, LATEST = 1767225600.0, 4102444800.0  # 2026-01-01, 2100-01-01


def mode(ground: Ground) -> list[Check]:
    host = ground.host
    seen = "; ".join(host.evidence) or "nothing that says so"
    if host.in_sandbox:
        return [_inside(ground, seen), *_surroundings(ground)]
    if host.in_sandbox is None:
        why = "inside a sandbox every upload needs an egress rule; on the host none does"
        return [Check("mode", WARN, "could not tell whether this is a sandbox: " + seen, why, "clawmetry snapshot --json")]
    if host.in_container and not any(survey.readable for survey in ground.surveys.values()):
        why = "the host's sandboxes are out of sight from in here, unless its /proc and engine socket were handed in"
        return [Check("mode", WARN, "in a container that is no sandbox: " + seen, why, "install on the host: docs/deployment.md")]
    why = "sandboxes are read from outside and uploads leave from the host, so no sandbox needs an egress rule for this daemon"
    where = "in a container that has sandboxes of its own" if host.in_container else "on the host"
    return [Check("mode", OK, "%s: %s" % (where, seen), why)]


def egress_rule(ground: Ground) -> Optional[rule.Rule]:
    """Return the rule this daemon needs where it runs; None for an archive or an address no rule can name."""
    binary = os.path.realpath(sys.executable or "/usr/bin/python3")
    try:
        return rule.build(ingest_url=ground.settings.ingest_url, binary=binary)
    except ConfigError:
        return None


def egress_snippet(ground: Ground) -> str:
    needed = egress_rule(ground)
    if needed is None:
        return ""
    return "# for a wrapper of your own\n%s# NemoClaw preset\n%s" % (render.generic(needed), render.preset(needed))


def egress_command(ground: Ground) -> str:
    name = ground.settings.only or ground.env.get("NEMOCLAW_SANDBOX") or "<name>"
    return "on the host: nemoclaw %s policy-add --from-file FILE --yes, or the role clawmetry.sync.policy" % shown(name)


def _inside(ground: Ground, seen: str) -> Check:
    who = "whoever is root in it" if ground.euid == 0 else "its agent, where it is the same user,"
    why = who + " can read the keys and change what is sent, and its network policy must let every upload through"
    snippet = egress_snippet(ground)
    step = "better install on the host; else, " + egress_command(ground) if snippet else "install on the host: docs/deployment.md"
    return Check("mode", WARN, "inside a sandbox: " + seen, why, step, snippet)


def _surroundings(ground: Ground) -> list[Check]:
    """The sandbox's own proxy and authorities, which its environment names and the daemon does not take from there."""
    settings, env = ground.settings, ground.env
    checks = []
    proxy = env.get("HTTPS_PROXY") or env.get("https_proxy")
    if proxy and not settings.proxy and not settings.is_archive:
        why = "the daemon takes no proxy from its environment, and a sandbox has no other way out"
        text = "HTTPS_PROXY is set and proxy is not"
        place = proxy if "@" not in proxy else "what HTTPS_PROXY says"
        checks.append(Check("proxy", FAIL, text, why, "set in clawmetry.yml: proxy: %s" % shown(place)))
    bundle = env.get("SSL_CERT_FILE")
    if bundle and not settings.ca_file and not settings.is_archive:
        why = "the sandbox's proxy ends TLS with an authority of its own"
        checks.append(Check("ca_file", WARN, "SSL_CERT_FILE is set and ca_file is not", why, "set ca_file: %s" % shown(bundle)))
    return checks


# -- capabilities -------------------------------------------------------------------


def effective(ground: Ground, pid: str) -> Optional[int]:
    """Return the effective capabilities of a process as bits, None when /proc does not tell."""
    try:
        with open(ground.path("/proc/%s/status" % pid), "rb") as stream:
            for line in stream.read(65536).splitlines():
                if line.startswith(b"CapEff:"):
                    return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return None


def missing(bits: int, wanted: tuple[str, ...]) -> list[str]:
    return [name for name in wanted if not bits >> CAPABILITIES[name] & 1]


def capabilities(ground: Ground) -> list[Check]:
    """May whoever does the reading read? The service where it runs, else this process."""
    if not ground.host.os.startswith("linux"):
        why = "they are Linux's; here stopped containers and volumes are read through the engine"
        return [Check("capabilities", OK, "none on %s" % ground.host.os_name, why)]
    pid = (ground.status or {}).get("pid")
    who = "the service (process %d)" % pid if isinstance(pid, int) else "this process"
    bits = effective(ground, str(pid) if isinstance(pid, int) else "self")
    why = "they open /proc/<pid>/root, the route into a running container"
    if bits is None:
        return [Check("capabilities", WARN, "/proc does not tell those of %s" % who, why, "sudo clawmetry doctor")]
    cure = "rerun the daemon role" if isinstance(pid, int) else "sudo clawmetry doctor, or rerun the daemon role"
    lacking = missing(bits, FOR_PROC)
    containers = [box for box in ground.found.sandboxes if box.container is not None]
    if "proc" not in ground.settings.routes:
        first = Check("capabilities", OK, "the route proc is not among the routes", why)
    elif not lacking:
        first = Check("capabilities", OK, "%s has %s" % (who, ", ".join(FOR_PROC)), why)
    elif containers:
        first = Check("capabilities", FAIL, "%s lacks %s" % (who, ", ".join(lacking)), why, cure)
    else:
        first = Check("capabilities", OK, "%s lacks %s, and no container needs them" % (who, ", ".join(lacking)), why)
    return [first, *_sqlite(ground, bits, who, cure)]


def _sqlite(ground: Ground, bits: int, who: str, cure: str) -> list[Check]:
    """Only where a SQLite store was seen: its reader is a child that enters the sandbox's root as its owner."""
    stores = [box for box in ground.found.sandboxes if getattr(ground.surveys.get(box.uid), "store", "none") in ("sqlite", "both")]
    if not stores:
        return []
    why = "a database is read by a child that changes its root and becomes the file's owner"
    lacking = missing(bits, FOR_SQLITE)
    names = ", ".join(shown(box.name, 40) for box in stores[:5])
    if lacking:
        return [Check("sqlite", FAIL, "%s keep SQLite stores and %s lacks %s" % (names, who, ", ".join(lacking)), why, cure)]
    return [Check("sqlite", OK, "%s keep SQLite stores, and %s may read them" % (names, who), why)]


def clock(ground: Ground) -> list[Check]:
    now = ground.clock()
    seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(max(now, 0.0), LATEST)))
    why = "certificates are judged, and uploads are dated, by it"
    if EARLIEST <= now < LATEST:
        return [Check("clock", OK, seen, why)]
    return [Check("clock", FAIL, "it says " + seen, why, "timedatectl set-ntp true")]
