# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Engine API client: what it asks, and what it makes of an engine that fails."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawmetry_sync.dockerapi import Engine, EngineError, field, socket_path
from support.fakeengine import FakeEngine, silent_socket

pytestmark = pytest.mark.network
LIST = "/containers/json?all=1"


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    with FakeEngine("docker-openshell-0.0.72.json") as engine:
        yield engine


def kind_of(engine: Engine) -> str:
    with pytest.raises(EngineError) as caught:
        engine.containers()
    return caught.value.kind


def test_lists_stopped_containers_too_and_inspects_one(fake: FakeEngine) -> None:
    engine = Engine(fake.url)
    rows = engine.containers()
    assert {row["State"] for row in rows} == {"running", "exited"}
    assert engine.inspect(rows[0]["Id"])["State"]["Pid"] == 5101
    assert engine.version()["Version"] == "28.2.2"


def test_environment_of_a_container_is_dropped_at_once(fake: FakeEngine) -> None:
    answer = Engine(fake.url).inspect(fake.containers[0]["Id"])
    assert "Env" not in answer["Config"] and "canary" not in repr(answer)


def test_unknown_container_is_gone(fake: FakeEngine) -> None:
    with pytest.raises(EngineError) as caught:
        Engine(fake.url).inspect("0" * 64)
    assert caught.value.kind == "gone"


@pytest.mark.parametrize("hostile", ["", "../version", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 64 + "/../../x"])
def test_what_is_no_container_id_is_never_put_into_a_path(fake: FakeEngine, hostile: str) -> None:
    with pytest.raises(EngineError):
        Engine(fake.url).inspect(hostile)
    assert fake.asked == []


def test_absent_refused_and_denied_are_different_answers(fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind_of(Engine("unix://%s/none.sock" % tmp_path)) == "absent"
    fake.stop()
    assert kind_of(Engine(fake.url)) == "refused"

    def denied(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", denied)
    assert kind_of(Engine(fake.url)) == "denied"


def test_engine_that_never_answers_costs_one_timeout(fake: FakeEngine) -> None:
    silent = silent_socket(fake.root / "silent.sock")
    try:
        started = time.monotonic()
        assert kind_of(Engine("unix://%s/silent.sock" % fake.root, timeout_s=0.2)) == "hangs"
        assert time.monotonic() - started < 5
    finally:
        silent.close()


def test_engine_that_drips_its_answer_costs_one_timeout(fake: FakeEngine) -> None:
    listener = silent_socket(fake.root / "drip.sock")
    stop = threading.Event()

    def drip() -> None:
        peer, _address = listener.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n[")
            try:
                while not stop.wait(0.02):
                    peer.sendall(b" ")
            except OSError:
                pass

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        started = time.monotonic()
        assert kind_of(Engine("unix://%s/drip.sock" % fake.root, timeout_s=0.3)) == "hangs"
        assert time.monotonic() - started < 5
    finally:
        stop.set()
        thread.join(5)
        listener.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{}", b"null", b"[" * 100_000, b'"text"', b"\xff\xfe", b"[1" + b"0" * 10_000 + b"]x"],
    ids=lambda body: repr(body[:8]),
)
def test_answers_that_are_no_container_list_are_broken(fake: FakeEngine, body: bytes) -> None:
    fake.raw[LIST] = body
    assert kind_of(Engine(fake.url)) == "broken"


def test_answer_larger_than_the_cap_is_broken(fake: FakeEngine) -> None:
    fake.raw[LIST] = b"[" + b" " * 200_000 + b"]"
    assert kind_of(Engine(fake.url, cap_bytes=100_000)) == "broken"


def test_rows_that_are_no_objects_are_left_out(fake: FakeEngine) -> None:
    fake.raw[LIST] = b'[1, null, "x", {"Id": "y"}]'
    assert Engine(fake.url).containers() == [{"Id": "y"}]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:2375", "ssh://host", "", "unix://relative", "/var/run/docker.sock"])
def test_only_unix_sockets_are_engines(address: str) -> None:
    with pytest.raises(EngineError):
        socket_path(address)


def test_field_walks_objects_only() -> None:
    assert field({"a": {"b": 1}}, "a", "b") == 1
    assert field({"a": [1]}, "a", "b") is None
    assert field(None, "a") is None
