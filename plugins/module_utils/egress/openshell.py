# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The policy verbs of the ``openshell`` command line, as far as they are needed here.

Every call names the sandbox (without a name the CLI takes the last one used), has a hard limit in time
(the CLI has none against a gateway that never answers), and is read by words rather than by exit code
alone. Flags are tried from the newest form to the oldest: an unknown flag is exit code 2.
Source: reference/openshell.md §3 and §5.
"""

from __future__ import annotations

import re
from typing import Mapping, Optional

from .. import run
from ..discover.binaries import parse_version
from ..errors import CommandError, shown
from .policy import Policy, PolicyError, Revision, parse_json, parse_list, parse_text, submitted, words

READ_TIMEOUT_S = 30.0
_USAGE = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_NONE_GLOBAL = re.compile(r"no global policy|not ?found", re.IGNORECASE)
# With which flags a policy is read: its base without the gateway's own entries (0.0.72), JSON (0.0.47), else YAML.
_FORMS = (((0, 0, 72), ("--base", "-o", "json")), ((0, 0, 47), ("--full", "-o", "json")), ((0, 0, 0), ("--full",)))


class OpenShell:
    """One ``openshell`` binary and the gateway to speak to (None: the user's active one)."""

    def __init__(
        self,
        path: str,
        *,
        gateway: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        timeout_s: int = 60,
        runner: run.Runner = run.run,
    ) -> None:
        self.path = path
        self.gateway = gateway
        self.timeout_s = timeout_s
        self._env = dict(env or {})
        self._runner = runner
        self._version: Optional[tuple[int, ...]] = None

    def version(self) -> Optional[tuple[int, ...]]:
        """Return (0, 0, 72) of ``openshell 0.0.72``, None when it does not say. Raises PolicyError when it cannot be run."""
        if self._version is None:
            answer = self._call("--version", timeout_s=READ_TIMEOUT_S)
            text = parse_version(answer.stdout) if answer.rc == 0 else None
            numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", text or "")
            self._version = tuple(int(part) for part in numbers.groups()) if numbers else None
        return self._version

    def read(self, sandbox: str) -> Policy:
        """Return the policy in force, without the gateway's own entries. Raises PolicyError with the reason."""
        policy = self._read(sandbox, ())
        if policy.active is not None and policy.revision is not None and policy.active != policy.revision:
            # Up to 0.0.46 the newest revision is shown, even when it did not load.
            policy = self._read(sandbox, ("--rev", str(policy.active)))
        if policy.is_global is None:
            policy = Policy(policy.document, policy.revision, policy.active, policy.status, self._global_in_force())
        return policy

    def _read(self, sandbox: str, flags: tuple[str, ...]) -> Policy:
        version = self.version()
        for since, form in _FORMS:
            if version is not None and version < since:
                continue
            answer = self._policy("get", *flags, *form, sandbox)
            if answer.rc == _USAGE and form != _FORMS[-1][1]:
                continue
            if answer.rc != 0:
                raise _why("cannot read the policy", sandbox, answer)
            return parse_json(answer.stdout) if "json" in form else parse_text(answer.stdout)
        raise PolicyError("cannot read the policy", where=shown(sandbox))

    def _global_in_force(self) -> Optional[bool]:
        """Is there a policy for all sandboxes? Only asked of versions that do not say where a policy is from."""
        answer = self._policy("get", "--global")
        if answer.rc == 0:
            return True
        return False if _NONE_GLOBAL.search(words(answer.stderr)) else None

    def newest(self, sandbox: str) -> Optional[Revision]:
        """Return the newest revision, loaded or not; None when it cannot be told."""
        try:
            answer = self._policy("list", sandbox)
        except PolicyError:
            return None
        rows = parse_list(answer.stdout) if answer.rc == 0 else []
        return max(rows, key=lambda row: row.number, default=None)

    def replace(self, sandbox: str, file: str) -> tuple[Optional[int], Optional[str]]:
        """Replace the sandbox's policy by FILE and wait for it: (revision that was stored, what went wrong).

        A revision with a problem means that it was stored and did not load. Neither raises.
        """
        argv = ("set", "--policy", file, "--wait", "--timeout", str(self.timeout_s), sandbox)
        try:
            answer = self._policy(*argv, timeout_s=self.timeout_s + 20.0)
        except PolicyError as exc:
            return None, exc.cause or exc.what
        number = submitted(answer.stderr)
        if answer.rc == 0:
            return number, None
        reason = "no answer from the sandbox in %d s" % self.timeout_s if answer.rc == 124 else "exit code %d" % answer.rc
        # What went before its "Error:" is that the revision was submitted.
        said = words(answer.stderr[max(0, answer.stderr.find(b"Error:")) :])
        return number, said if said and answer.rc != 124 else reason

    def _policy(self, verb: str, *arguments: str, timeout_s: float = READ_TIMEOUT_S) -> run.Result:
        gateway = ("-g", self.gateway) if self.gateway else ()
        return self._call("policy", verb, *gateway, *arguments, timeout_s=timeout_s)

    def _call(self, *arguments: str, timeout_s: float) -> run.Result:
        try:
            return self._runner([self.path, *arguments], timeout_s=timeout_s, env=self._env)
        except CommandError as exc:
            raise PolicyError("openshell gave no answer", where=shown(self.path), cause=exc.cause) from exc


def check_sandbox(name: str) -> str:
    """Return NAME when it can be handed to a command line. Raises PolicyError."""
    if not _NAME.fullmatch(name):
        raise PolicyError("this is no sandbox name", cause="it is %s" % shown(name))
    return name


def _why(what: str, sandbox: str, answer: run.Result) -> PolicyError:
    said = words(answer.stderr) or "exit code %d" % answer.rc
    lower = said.lower()
    next_step = "openshell policy get %s" % shown(sandbox)
    if "no active gateway" in lower:
        next_step = "become the user who owns the sandbox, or set gateway"
    elif "connect" in lower or "unavailable" in lower:
        next_step = "start the gateway, then run this again"
    elif "denied" in lower or "unauthenticated" in lower:
        next_step = "become the user who owns the sandbox"
    elif "not found" in lower or "notfound" in lower:
        next_step = "openshell sandbox list"
    return PolicyError(what, where=shown(sandbox), cause=said, next_step=next_step)
