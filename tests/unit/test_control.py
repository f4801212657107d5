# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S29: the status socket is 0600, answers us and root only, and nobody can hold it up."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync import control
from clawmetry_sync.errors import StateError

pytestmark = pytest.mark.network


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    return "status.sock"


@pytest.fixture
def server(path: str) -> Iterator[control.Server]:
    def handler(request: dict[str, Any]) -> dict[str, Any]:
        return {"echo": request}

    made, stop = control.Server(path, handler), threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,), daemon=True)
    thread.start()
    yield made
    stop.set()
    thread.join(5)
    made.close()


def test_answers_one_request(server: control.Server, path: str) -> None:
    assert control.ask(path, {"op": "status"}) == {"echo": {"op": "status"}}


def test_the_socket_is_ours_alone(server: control.Server, path: str) -> None:
    seen = os.lstat(path)
    assert stat.S_ISSOCK(seen.st_mode)
    assert stat.S_IMODE(seen.st_mode) == 0o600


def test_whatever_the_umask(path: str) -> None:
    before = os.umask(0)
    try:
        made = control.Server(path, dict)
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    made.close()
    assert not os.path.lexists(path)


def test_another_user_gets_no_answer(server: control.Server, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(struct, "unpack", lambda _format, _data: (1, os.geteuid() + 4321, 0))
    with pytest.raises(StateError, match="does not answer"):
        control.ask(path, {"op": "status"})


@pytest.mark.parametrize("message", [b"", b"{", b"[]", b"\xff", b"[" * 60_000, b'{"op":' + b"9" * 5000 + b"}", b"x" * 200_000])
def test_nonsense_is_survived(server: control.Server, path: str, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        try:
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)
            client.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert control.ask(path, {"op": "status"}) == {"echo": {"op": "status"}}


def test_a_silent_client_holds_nobody_up(server: control.Server, path: str) -> None:
    clients = [socket.socket(socket.AF_UNIX) for _number in range(5)]
    try:
        for client in clients:
            client.connect(path)
        began = time.monotonic()
        assert control.ask(path, {"op": "status"}) == {"echo": {"op": "status"}}
        assert time.monotonic() - began < 5
    finally:
        for client in clients:
            client.close()


def test_a_leftover_is_replaced_and_a_link_is_not_followed(path: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("stays")
    os.symlink("victim", path)
    control.Server(path, dict).close()
    assert (tmp_path / "victim").read_text() == "stays"


def test_nobody_there_is_none(path: str) -> None:
    assert control.ask(path, {}) is None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert control.ask(path, {}) is None


def test_one_that_does_not_answer_is_said(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen()
        with pytest.raises(StateError, match="does not answer"):
            control.ask(path, {}, timeout_s=0.2)


def test_path_longer_than_a_socket_address_is_served_all_the_same(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 150)
    directory.mkdir()
    path = str(directory / "status.sock")
    made, stop = control.Server(path, lambda request: {"was": request}), threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,), daemon=True)
    thread.start()
    try:
        assert control.ask(path, {"op": "x"}) == {"was": {"op": "x"}}
    finally:
        stop.set()
        thread.join(5)
        made.close()
    assert control.ask(path, {}) is None


def test_no_answer_is_larger_than_the_cap(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_MESSAGE_BYTES", 1000)
    made, stop = control.Server(path, lambda _request: {"x": "y" * 200_000}), threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,), daemon=True)
    thread.start()
    try:
        with pytest.raises(StateError, match="more than 1000 bytes"):
            control.ask(path, {})
    finally:
        stop.set()
        thread.join(5)
        made.close()


def test_answers_are_json(server: control.Server, path: str) -> None:
    answer = control.ask(path, {"name": "\x1b[31m\u202e\ud800\n"})
    assert answer is not None
    assert json.loads(json.dumps(answer)) == {"echo": {"name": "\x1b[31m\u202e\ud800\n"}}
