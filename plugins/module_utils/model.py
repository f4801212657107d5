# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The nouns of the house, as frozen dataclasses. No I/O, no imports of other rooms.

Unknown is a value: every field that may be unknown is Optional, and None means
"could not tell", with the reason in ``evidence`` or ``reason``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

RUNTIMES = ("nemoclaw", "openshell", "docker", "podman", "k3s", "openclaw")
LAYERS = ("host_cli", "engine", "gateway", "k3s", "sandbox", "proxy", "state_files")


@dataclass(frozen=True)
class Runtime:
    """Is a runtime on this host? ``present`` None means unknown; ``evidence`` says what was seen."""

    name: str
    present: Optional[bool] = None
    version: Optional[str] = None
    path: Optional[str] = None
    user: Optional[str] = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mount:
    """A named volume or bind mount of a container: the host directory and where the container sees it."""

    source: bytes  # absolute path on the host
    destination: bytes  # absolute path in the container


@dataclass(frozen=True)
class ContainerPlace:
    """A container of a local engine: where its files are reached from.

    ``pid`` is the engine's State.Pid as seen in our pid namespace, 0 when it is not running. With ``pod``
    it is a pod's process instead, and the container the one k3s runs in.
    """

    engine: str  # e.g. "unix:///var/run/docker.sock"
    container_id: str  # 64 hex digits
    pid: int = 0
    started_at: str = ""
    running: bool = False
    mounts: tuple[Mount, ...] = ()
    pod: Optional[str] = None  # uid of a pod inside the container
    pod_name: Optional[str] = None  # its name as kubectl tells it; a pod's own word for it is not enough to run anything in it
    owner: Optional[int] = None  # whose rootless engine it is: what it says of pids and paths is that user's word


@dataclass(frozen=True)
class CliPlace:
    """How its user's own ``openshell`` reaches a ready sandbox: which file, as whom, and what to name. For route exec only."""

    program: str  # resolved
    environment: tuple[tuple[str, str], ...]
    user: Optional[int]  # None: as ourselves
    group: Optional[int]
    version: tuple[int, ...]  # () when it could not be told
    gateway: str
    workspace: Optional[str]
    name: str
    id: str


@dataclass(frozen=True)
class HomePlace:
    """A bare OpenClaw state directory on the host.

    ``root`` is the directory we hold and never leave (the user's home, or the state
    directory itself when OPENCLAW_STATE_DIR names one); ``state`` is relative to it.
    """

    root: bytes  # absolute
    state: bytes = b".openclaw"  # b"." when root is the state directory itself
    owner: Optional[str] = None  # login name, None when the uid has none


@dataclass(frozen=True)
class Inference:
    provider: Optional[str] = None
    model: Optional[str] = None


@dataclass(frozen=True)
class Security:
    sandbox_enabled: Optional[bool] = None
    network_policy: Optional[bool] = None
    policies: Optional[tuple[str, ...]] = None


@dataclass(frozen=True)
class Sandbox:
    """One sandbox as discovery merged it from registry, labels, CLI and /proc.

    ``uid`` is its identity for cursors: "docker:<container id>", "podman:<container id>", "docker:<uid>:<container id>"
    and "podman:<uid>:<container id>" (a user's own engine), "k3s:<container id>:<pod uid>", "bare:<state dir>",
    "openshell:<gateway>:<workspace>:<id>" or "registry:<gateway>:<name>"; never a name or a label alone.
    """

    uid: str
    name: str
    type: str  # nemoclaw | docker | bare
    id: Optional[str] = None  # OpenShell sandbox id, else container id
    status: Optional[str] = None  # running | stopped | ... as the best source says
    phase_source: Optional[str] = None  # docker | registry | openshell | nemoclaw | host
    gateway: Optional[str] = None
    workspace: Optional[str] = None
    agent: Optional[str] = None  # openclaw | hermes | ... ; None = not known
    image: Optional[str] = None
    default: bool = False
    inference: Inference = field(default_factory=Inference)
    security: Security = field(default_factory=Security)
    container: Optional[ContainerPlace] = None
    home: Optional[HomePlace] = None
    cli: Optional[CliPlace] = None
    evidence: tuple[str, ...] = ()
    confirmed: bool = False  # by a label or registry entry of the runtime itself; a readable state directory confirms the rest
    reason: Optional[str] = None  # why something about it is not known or not readable
    agent_version: Optional[str] = None  # as a registry recorded it; None = no file says so
    driver: Optional[str] = None  # what OpenShell runs it with: docker | podman | kubernetes | vm
    messaging: Optional[tuple[str, ...]] = None  # kinds of enabled channels, never their names or ids; None = no file says so


@dataclass(frozen=True)
class Layer:
    """One layer of the architecture on this host: is it there, what is known of it, and what says so.

    ``details`` holds JSON-ready values in the order they are shown; None within them is unknown.
    """

    name: str
    present: Optional[bool]
    details: tuple[tuple[str, object], ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discovery:
    """One discovery pass: runtimes in RUNTIMES order, candidates and confirmed sandboxes, warnings."""

    runtimes: tuple[Runtime, ...] = ()
    sandboxes: tuple[Sandbox, ...] = ()
    warnings: tuple[str, ...] = ()
    topology: tuple[Layer, ...] = ()  # from the host's command to the sandbox
    blueprint: Optional[Layer] = None  # what NemoClaw's installed source asks of the others


@dataclass(frozen=True)
class Survey:
    """What reading a sandbox's directories (never its contents) told: the store, its agents, its sessions."""

    readable: bool
    route: Optional[str] = None  # proc | volume | archive | exec
    reason: Optional[str] = None
    store: Optional[str] = "none"  # jsonl | sqlite | both | none
    agents: tuple[str, ...] = ()
    session_count: int = 0
    session_bytes: int = 0
    last_activity: Optional[float] = None  # epoch seconds, newest mtime
    memory_files: tuple[tuple[str, int, float], ...] = ()  # name, size_bytes, mtime
    other_agent: Optional[str] = None  # seen in it and not OpenClaw: its transcripts are not read, and ``store`` is where it keeps them


@dataclass(frozen=True)
class Record:
    """One complete line of a transcript, without its newline."""

    offset: int  # of its first byte in the source
    data: bytes


@dataclass(frozen=True)
class Poison:
    """A record that cannot be taken: where it is, how long, its SHA-256, and why."""

    offset: int
    length: int
    sha256: str
    reason: str


@dataclass(frozen=True)
class Cursor:
    """Where reading of a source goes on: generation, byte offset, and a hash of the bytes before it."""

    generation: int = 0
    offset: int = 0
    marker: bytes = b""
