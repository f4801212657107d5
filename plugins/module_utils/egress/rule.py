# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What the daemon needs to reach, as one value: host, port, the exact paths it posts to, one interpreter. Pure.

The paths come from ``wire``, so a new endpoint cannot be forgotten here without a test noticing.
Source of the matching rules: reference/openshell.md §5 (binaries, path globs), nemoclaw.md §5 (names).
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import dataclass
from typing import Optional, Sequence
from urllib.parse import urlsplit

from .. import wire
from ..config import CLOUD_URL, check_url
from ..errors import ConfigError, shown

DEFAULT_NAME = "clawmetry-ingest"
# The daemon only ever posts (ship/https.py); a rule for GET would be a hole without a use.
METHOD = "POST"
PATHS = (wire.AUTH, wire.EVENTS, wire.SESSIONS, wire.MEMORY, wire.SNAPSHOT, wire.HEARTBEAT)
# What an agent may write in OpenShell's own images, whatever a policy's filesystem part says.
AGENT_WRITABLE = ("/sandbox", "/tmp", "/var/tmp", "/dev", "/home", "/run/user")
# Built into NemoClaw (`policy-list`, July 2026): a custom preset may not take one of these names.
BUILTIN_PRESETS = frozenset(
    (
        *("brave", "brew", "claude-code", "discord", "github", "huggingface", "jira", "local-inference", "nous-audio", "nous-browser"),
        *("nous-code", "nous-image", "nous-web", "npm", "observability-otlp-local", "openclaw-diagnostics-otel-local", "openclaw-pricing"),
        *("outlook", "public-reference", "pypi", "slack", "tavily", "teams", "telegram", "weather", "wechat", "whatsapp"),
    )
)
MAX_NAME = 63
MAX_PATH = 1024

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_GLOB = re.compile(r"[*?\[\]{}]")
_SHARED = re.compile(r"/(?:usr/)?(?:local/)?bin/(?:python|pypy|node|bash|sh|dash|env|busybox|perl|ruby)[0-9.]*")


@dataclass(frozen=True)
class Rule:
    """One egress rule: METHOD on exactly ``paths`` of ``host``:``port``, for the interpreter ``binary`` and its children."""

    host: str
    port: int
    paths: tuple[str, ...]
    binary: str
    name: str = DEFAULT_NAME

    @property
    def key(self) -> str:
        """Its key in ``network_policies``; clawmetry-ingest is clawmetry_ingest there."""
        return self.name.replace("-", "_")


def build(*, ingest_url: str = CLOUD_URL, binary: str, name: str = DEFAULT_NAME) -> Rule:
    """Return the rule for a daemon with this ``ingest_url``, run by the interpreter BINARY. Raises ConfigError.

    ``https://ingest.example.com:8443/clawmetry`` gives that host, 8443, and every path below /clawmetry.
    """
    url = check_url("ingest_url", ingest_url)
    parts = urlsplit(url)
    if parts.scheme == "file":
        raise ConfigError("no egress rule is needed", cause="ingest_url is a local archive", next_step="leave the policy as it is")
    if parts.scheme != "https":
        raise ConfigError("no egress rule is possible", cause="ingest_url is a loopback address, which does not pass the proxy")
    host = (parts.hostname or "").rstrip(".")
    if ":" in host or len(host) > 253 or not _HOST.fullmatch(host):
        cure = "give the ingest's exact DNS name or IPv4 address (international names in their xn-- form)"
        raise ConfigError("ingest_url names no host that a rule can name", cause="host is %s" % shown(host), next_step=cure)
    if _is_loopback(host):
        raise ConfigError("no egress rule is possible", cause="ingest_url is a loopback address, which does not pass the proxy")
    if not _URL_PATH.fullmatch(parts.path):
        raise ConfigError("ingest_url has a path that a rule cannot state exactly", cause="it is %s" % shown(parts.path))
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        cause = "it is %s" % shown(name)
        raise ConfigError("name must be lower-case letters, digits and single hyphens between them", cause=cause)
    if name in BUILTIN_PRESETS:
        raise ConfigError("name is one of NemoClaw's built-in presets", cause="it is %s" % name, next_step="choose another name")
    return Rule(host, parts.port or 443, tuple(parts.path + path for path in PATHS), check_binary(binary), name)


def check_binary(binary: str) -> str:
    """Return BINARY when it is one plain absolute path (it may still be a wide one). Raises ConfigError."""
    bad = any(not char.isprintable() for char in binary) or len(binary) > MAX_PATH
    if bad or not binary.startswith("/") or posixpath.normpath(binary) != binary or binary.startswith("//"):
        next_step = "give what `readlink -f` says of the interpreter inside the sandbox"
        raise ConfigError("binary must be a plain absolute path", cause="it is %s" % shown(binary), next_step=next_step)
    return binary


def too_wide(binary: str, writable: Sequence[str] = ()) -> Optional[str]:
    """Return why BINARY admits more than the daemon, None when it does not. WRITABLE: more directories the agent may write."""
    if _GLOB.search(binary):
        return "%s is a pattern: every program it matches may send to the ingest" % shown(binary)
    for directory in (*AGENT_WRITABLE, *writable):
        base = directory.rstrip("/")
        if binary == base or binary.startswith(base + "/"):
            return "the agent may write below %s: it can put any program at %s" % (shown(base or "/"), shown(binary))
    return None


def caution(binary: str) -> Optional[str]:
    """Return what to know of a shared interpreter, None for a dedicated one. Whoever runs it is let through, and its children."""
    if not _SHARED.fullmatch(binary):
        return None
    text = "%s is shared: every script it runs may send to the ingest, the agent's too" % shown(binary)
    if "/local/" in binary:
        text += "; in OpenShell's base image it leads to /sandbox/.uv, which the agent may write"
    return text + ". A copy of the interpreter that only the daemon uses, in a directory of root's, is narrower"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
