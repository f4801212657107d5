# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Puts the rule into a sandbox's policy, or takes it out: read, compare, write only a difference, wait, read back.

A push is disruptive (the sandbox's open connections drop) and a revision that does not load can cut all its
egress, so a plan is made and can be shown first, and a push that fails is followed by one of the policy that
was there before. A first push that stored nothing is left at that: pushing again would only disrupt.
"""

from __future__ import annotations

import os
import posixpath
import pwd
import tempfile
from dataclasses import dataclass
from typing import Any, Mapping, Optional

from .. import run
from ..discover.accounts import Account
from ..discover.binaries import Lookups
from ..errors import shown
from . import nemoclaw as owners
from . import policy as policies
from . import render
from .nemoclaw import NemoClaw
from .openshell import OpenShell, check_sandbox
from .policy import Change, Policy, PolicyError, Revision, same
from .rule import Rule

# What of our own environment the two command lines may see besides HOME.
_ENVIRONMENT = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "OPENSHELL_GATEWAY_ENDPOINT")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class PushFailed(PolicyError):
    """A push failed. ``restored``: True the former policy is back, False it is not, None nothing had been stored."""

    def __init__(self, what: str, *, restored: Optional[bool], **details: str) -> None:
        super().__init__(what, **details)
        self.restored = restored


@dataclass(frozen=True)
class Target:
    """A sandbox and the command lines that lead to it; ``nemoclaw`` None: its policy is OpenShell's alone."""

    sandbox: str
    openshell: OpenShell
    nemoclaw: Optional[NemoClaw] = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What would be done: the policy as it is, and the change. Nothing has been written."""

    target: Target
    rule: Rule
    present: bool
    base: Policy
    change: Change
    newest: Optional[Revision] = None  # loaded or not; None when it cannot be told

    @property
    def changed(self) -> bool:
        return self.change.document is not None

    @property
    def warnings(self) -> tuple[str, ...]:
        found = self.target.warnings + self.change.warnings
        if self.newest is not None and self.newest.status == "Failed":
            text = "revision %d of the policy did not load (%s): OpenShell may hold back all of the sandbox's traffic until one does"
            found += (text % (self.newest.number, self.newest.error),)
        return found

    def diff(self) -> dict[str, str]:
        """Return the whole policy before and after, as YAML."""
        after = self.base.document if self.change.document is None else self.change.document
        header = "policy of %s" % self.target.sandbox
        return {
            "before_header": header + (" (revision %d)" % self.base.revision if self.base.revision else ""),
            "after_header": header,
            "before": render.yaml(self.base.document),
            "after": render.yaml(after),
        }


@dataclass(frozen=True)
class Outcome:
    """A push that worked, or none that was needed: through which command line, which revision, and what to know."""

    changed: bool
    via: Optional[str]
    revision: Optional[int]
    warnings: tuple[str, ...] = ()


def find(
    sandbox: str,
    *,
    via: str = "auto",
    gateway: Optional[str] = None,
    openshell: Optional[str] = None,
    nemoclaw: Optional[str] = None,
    timeout_s: int = 60,
    runner: run.Runner = run.run,
    environ: Optional[Mapping[str, str]] = None,
    home: Optional[str] = None,
) -> Target:
    """Return how SANDBOX is reached by the account we are. Raises PolicyError when it is not.

    ``via``: nemoclaw, openshell, or auto: NemoClaw where one of its registries in our home has the sandbox.
    """
    check_sandbox(sandbox)
    if gateway is not None:
        check_sandbox(gateway)
    me = _account(home)
    environ = os.environ if environ is None else environ
    env = {"HOME": me.home, **{key: environ[key] for key in _ENVIRONMENT if environ.get(key)}}
    lookups = Lookups(root="/", runner=runner, euid=os.geteuid())
    shell_path = openshell or _binary(lookups, "openshell", me)
    if shell_path is None:
        cause = "neither the system's directories nor %s/.local/bin have it" % shown(me.home)
        next_step = "become the user who owns the sandbox, or set openshell"
        raise PolicyError("there is no openshell command", cause=cause, next_step=next_step)
    owned = owners.owner(sandbox, me, gateway) if via != "openshell" else None
    shell = OpenShell(shell_path, gateway=gateway or (owned.gateway if owned else None), env=env, timeout_s=timeout_s, runner=runner)
    if via == "openshell":
        return Target(sandbox, shell)
    claw_path = nemoclaw or _binary(lookups, "nemoclaw", me)
    if via == "auto" and owned is None:
        return Target(sandbox, shell)
    problem = _no_nemoclaw(sandbox, owned is not None, claw_path)
    if problem and via == "nemoclaw":
        raise PolicyError("cannot go through NemoClaw", where=shown(sandbox), cause=problem, next_step="set via: openshell")
    if problem or claw_path is None or owned is None:
        return Target(sandbox, shell, warnings=("NemoClaw's registry has this sandbox, but %s: OpenShell is asked directly" % problem,))
    node = ":".join(dict.fromkeys((posixpath.dirname(claw_path), posixpath.dirname(shell_path))))
    env = {**env, "PATH": node + ":" + _PATH, "NEMOCLAW_NON_INTERACTIVE": "1", "NEMOCLAW_OPENSHELL_BIN": shell_path}
    if owned.port != owners.DEFAULT_PORT:
        env["NEMOCLAW_GATEWAY_PORT"] = str(owned.port)
    return Target(sandbox, shell, NemoClaw(claw_path, env=env, timeout_s=timeout_s, runner=runner))


def _no_nemoclaw(sandbox: str, owned: bool, path: Optional[str]) -> Optional[str]:
    if not owned:
        return "no registry of this user has the sandbox"
    if sandbox in owners.VERBS:
        return "its name is one of NemoClaw's own commands"
    return "there is no nemoclaw command" if path is None else None


def _account(home: Optional[str]) -> Account:
    euid = os.geteuid()
    try:
        entry = pwd.getpwuid(euid)
        name, own = entry.pw_name, entry.pw_dir
    except KeyError:
        name, own = str(euid), os.environ.get("HOME", "/nonexistent")
    path = home or own
    return Account(name, euid, path, path)


def _binary(lookups: Lookups, name: str, me: Account) -> Optional[str]:
    found = lookups.binary(name, [me], ask_version=False)
    return found.path if found else None


def plan(target: Target, rule: Rule, *, present: bool = True, allow_wide_binary: bool = False) -> Plan:
    """Read the policy and return what is to be done. Writes nothing. Raises PolicyError with the reason to refuse."""
    base = target.openshell.read(target.sandbox)
    if base.is_global is not False:
        cause = "a policy for all sandboxes is in force, and replaces this one's"
        if base.is_global is None:
            cause = "whether a policy for all sandboxes is in force could not be told"
        next_step = "ask who runs the gateway: openshell policy get --global"
        raise PolicyError("this sandbox's policy is not its own", where=shown(target.sandbox), cause=cause, next_step=next_step)
    change = policies.change(base.document, rule, present=present, allow_wide_binary=allow_wide_binary)
    newest = target.openshell.newest(target.sandbox)
    if change.document is not None and newest is not None and newest.status == "Pending":
        cause = "revision %d is stored, and the sandbox has not loaded it" % newest.number
        next_step = "wait, or start the sandbox; openshell policy list %s" % shown(target.sandbox)
        raise PolicyError("another change is under way", where=shown(target.sandbox), cause=cause, next_step=next_step)
    return Plan(target, rule, present, base, change, newest)


def carry_out(the_plan: Plan) -> Outcome:
    """Do what the plan says. Raises PolicyError when refused before a push, PushFailed when a push went wrong."""
    change, target = the_plan.change, the_plan.target
    if change.document is None:
        return Outcome(False, None, the_plan.base.revision, the_plan.warnings)
    before = the_plan.newest
    with tempfile.TemporaryDirectory(prefix="clawmetry-policy-") as directory:
        via, stored, problem, warnings = _push(the_plan, change.document, directory)
        after, mismatch = _read_back(the_plan, stored)
        problem = problem or mismatch
        if problem is None and after is not None:
            return Outcome(True, via, after.revision, target.warnings + change.warnings + warnings)
        newest = target.openshell.newest(target.sandbox)
        # Nothing stored and nothing changed: there is nothing to undo, and an undo would drop connections.
        untouched = stored is None and before is not None and newest is not None and newest.number == before.number
        if newest is not None and newest.status == "Failed" and newest.error and not untouched:
            problem = "%s (revision %d: %s)" % (problem, newest.number, newest.error)
        where, what = shown(target.sandbox), "the policy was not accepted"
        if untouched:
            raise PushFailed(what, restored=None, where=where, cause=problem or "", next_step="the policy is as it was; see the cause")
        wrong = _restore(the_plan, directory)
    if wrong is None:
        next_step = "the former policy is in force again; see the cause"
        raise PushFailed(what, restored=True, where=where, cause=problem or "", next_step=next_step)
    cause = "%s. The former policy could not be restored: %s" % (problem, wrong)
    next_step = "save previous_policy to a file, then openshell policy set --policy FILE --wait %s" % where
    raise PushFailed(what, restored=False, where=where, cause=cause, next_step=next_step)


def _push(the_plan: Plan, document: dict[str, Any], directory: str) -> tuple[str, Optional[int], Optional[str], tuple[str, ...]]:
    """Push once: (through what, the revision if known, what went wrong, warnings)."""
    target, rule = the_plan.target, the_plan.rule
    claw = target.nemoclaw
    if claw is not None and the_plan.present:
        preset = _write(directory, "preset.yaml", render.preset(rule))
        if claw.takes(target.sandbox, preset, rule):
            return "nemoclaw", None, claw.add(target.sandbox, preset), ()
    notes: tuple[str, ...] = ()
    if claw is not None and the_plan.present:
        notes = ("this NemoClaw takes no preset from a file: OpenShell was asked directly, and a rebuild of the sandbox loses the rule",)
    if claw is not None and not the_plan.present:
        problem = claw.remove(target.sandbox, rule.name)
        if problem is None and _read_back(the_plan, None)[1] is None:
            return "nemoclaw", None, None, ()
        notes = ("NemoClaw did not remove the rule, so OpenShell was asked: look again after the next rebuild of the sandbox",)
    revision, problem = target.openshell.replace(target.sandbox, _write(directory, "policy.yaml", render.yaml(document)))
    return "openshell", revision, problem, notes


def _read_back(the_plan: Plan, stored: Optional[int]) -> tuple[Optional[Policy], Optional[str]]:
    """Read the policy again: (it, what is not as planned). STORED: our own revision, when it is known."""
    target, rule = the_plan.target, the_plan.rule
    try:
        after = target.openshell.read(target.sandbox)
    except PolicyError as exc:
        return None, "it could not be read again: %s" % (exc.cause or exc.what)
    held = (after.document.get("network_policies") or {}).get(rule.key)
    if not same(held, the_plan.change.after):
        return after, "the policy in force is not the one that was sent"
    others_came = stored is not None and after.revision is not None and after.revision > stored
    if not others_came and not same(after.document, the_plan.change.document):
        return after, "other parts of the policy came out changed"
    return after, None


def _restore(the_plan: Plan, directory: str) -> Optional[str]:
    """Push the policy that was there before; return what went wrong."""
    target = the_plan.target
    file = _write(directory, "former.yaml", render.yaml(the_plan.base.document))
    _revision, problem = target.openshell.replace(target.sandbox, file)
    if problem:
        return problem
    try:
        now = target.openshell.read(target.sandbox)
    except PolicyError as exc:
        return exc.cause or exc.what
    return None if same(now.document, the_plan.base.document) else "the policy in force is another one"


def _write(directory: str, name: str, text: str) -> str:
    path = os.path.join(directory, name)
    with open(path, "x", encoding="ascii") as stream:
        stream.write(text)
    return path
