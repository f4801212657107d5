# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Does NemoClaw own a sandbox, and its ``policy-add`` and ``policy-remove``: so that it knows of the rule as well.

Custom presets from a file exist from 2026-04-27 on. The version it prints does not tell (a shallow
install says v0.1.0), and before May it ignores flags it does not know; a dry run, which changes
nothing, does. Source: reference/nemoclaw.md §2, §3 and §5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional

from .. import run
from ..discover import nemoclaw as registries
from ..discover.accounts import Account
from ..errors import CommandError, shown
from .policy import PolicyError, words
from .rule import Rule

# A sandbox may have the name of a verb, and then `nemoclaw stop policy-add` would stop things.
VERBS = frozenset(
    (
        *("agents", "backup-all", "config", "credentials", "debug", "deploy", "doctor", "gateway", "gc", "help", "inference", "list"),
        *("onboard", "policy", "sandbox", "sessions", "setup", "setup-spark", "shields", "start", "status", "stop", "tunnel"),
        *("uninstall", "update", "upgrade-sandboxes", "use", "version"),
    )
)
_USAGE = 2
DEFAULT_PORT = registries.DEFAULT_PORT
# Node and the policy context it writes into the sandbox, beside the wait for the policy itself.
_OWN_TIME_S = 60.0


@dataclass(frozen=True)
class Owned:
    """A registry of this user holds the sandbox; the gateway it is on, and the port that selects its state."""

    gateway: str
    port: int


def owner(sandbox: str, account: Account, gateway: Optional[str] = None) -> Optional[Owned]:
    """Return the registry's word on SANDBOX, None when no registry of ACCOUNT has it. Raises PolicyError when it is not clear."""
    found: dict[str, Owned] = {}
    for item in registries.Registries().find([account]):
        if item.registry is None:
            cause = shown(item.error, 300)
            raise PolicyError("cannot tell whether NemoClaw owns the sandbox", where=shown(item.path), cause=cause, next_step="set via")
        for entry in item.registry.entries:
            if entry.name != sandbox:
                continue
            if entry.gateway is None:
                cause = "its gateway is not valid"
                raise PolicyError("cannot use NemoClaw's registry", where=shown(item.path), cause=cause, next_step="set via and gateway")
            tail = entry.gateway.rpartition("-")[2]
            found[entry.gateway] = Owned(entry.gateway, int(tail) if tail.isdigit() else DEFAULT_PORT)
    if gateway is not None:
        return found.get(gateway)
    if len(found) > 1:
        cause = "gateways " + ", ".join(sorted(found))
        raise PolicyError("more than one sandbox has this name", where=shown(sandbox), cause=cause, next_step="set gateway")
    return next(iter(found.values()), None)


class NemoClaw:
    """One ``nemoclaw`` command line, run as the user who owns the sandboxes."""

    def __init__(self, path: str, *, env: Optional[Mapping[str, str]] = None, timeout_s: int = 60, runner: run.Runner = run.run) -> None:
        self.path = path
        self._env = dict(env or {})
        self._timeout_s = timeout_s + _OWN_TIME_S
        self._runner = runner

    def takes(self, sandbox: str, file: str, rule: Rule) -> bool:
        """Would it apply the preset in FILE? False: it cannot, it is too old. Raises PolicyError with its reason when it refuses."""
        answer = self._call(sandbox, "policy-add", "--from-file", file, "--dry-run")
        if answer.rc not in (0, _USAGE):
            said = words(answer.stdout + b" " + answer.stderr)
            raise PolicyError("NemoClaw refuses the preset", where=shown(sandbox), cause=said or "exit code %d" % answer.rc)
        return answer.rc == 0 and rule.host.encode() in answer.stdout

    def add(self, sandbox: str, file: str) -> Optional[str]:
        """Apply the preset in FILE; return what went wrong, None when it says that it worked."""
        return self._change(sandbox, "policy-add", "--from-file", file, "--yes")

    def remove(self, sandbox: str, name: str) -> Optional[str]:
        """Remove the preset. It may answer "Preset not found" to a custom name and end with 0: read the policy afterwards."""
        return self._change(sandbox, "policy-remove", name, "--yes")

    def _change(self, *arguments: str) -> Optional[str]:
        try:
            answer = self._call(*arguments)
        except PolicyError as exc:
            return exc.cause or exc.what
        return None if answer.rc == 0 else words(answer.stderr or answer.stdout) or "exit code %d" % answer.rc

    def _call(self, *arguments: str) -> run.Result:
        try:
            return self._runner([self.path, *arguments], timeout_s=self._timeout_s, env=self._env)
        except CommandError as exc:
            raise PolicyError("nemoclaw gave no answer", where=shown(self.path), cause=exc.cause) from exc
