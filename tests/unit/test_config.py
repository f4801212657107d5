# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration: what is taken, what is refused, and what the refusal says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync import config
from clawmetry_sync.errors import ConfigError
from clawmetry_sync.model import RUNTIMES

SYSTEM = config.SYSTEM_CONFIG


def build(raw: Optional[dict[Any, Any]] = None, **env: str) -> config.Settings:
    return config.build(raw or {}, env, SYSTEM)


def test_defaults_without_an_api_key_keep_everything_on_this_host() -> None:
    settings = build()
    assert settings.ingest_url == "file:///var/lib/clawmetry/archive" and settings.is_archive
    assert settings.archive_dir == "/var/lib/clawmetry/archive" and settings.queue_path == "/var/lib/clawmetry/queue.db"
    assert settings.encryption_key_file == "/etc/clawmetry/encryption_key" and settings.discover == RUNTIMES
    assert (settings.poll_interval, settings.snapshot_interval, settings.queue_max_bytes) == (1, 60, 268435456)
    assert settings.routes == ("proc", "volume", "archive") and settings.homes == "auto"


def test_api_key_of_any_kind_means_the_cloud(tmp_path: Path) -> None:
    assert build({"api_key_file": "/etc/clawmetry/api_key"}).ingest_url == config.CLOUD_URL
    assert build(CLAWMETRY_API_KEY="cm_x").ingest_url == config.CLOUD_URL
    (tmp_path / "api_key").write_text("cm_x")
    assert build(CREDENTIALS_DIRECTORY=str(tmp_path)).ingest_url == config.CLOUD_URL
    assert build(CREDENTIALS_DIRECTORY="relative").is_archive


@pytest.mark.parametrize(
    "env, url",
    [
        ({"CLAWMETRY_INGEST_URL": "https://one.example"}, "https://one.example"),
        ({"CLAWMETRY_ENDPOINT": "https://two.example/"}, "https://two.example"),
        ({"CLAWMETRY_NO_CLOUD": "1"}, "file:///var/lib/clawmetry/archive"),
        ({"CLAWMETRY_NO_CLOUD": "0"}, "https://set.example"),
        ({"CLAWMETRY_NO_CLOUD": "False"}, "https://set.example"),
        ({"CLAWMETRY_ENDPOINT": "https://two.example", "CLAWMETRY_INGEST_URL": "https://one.example"}, "https://two.example"),
        ({"CLAWMETRY_ENDPOINT": "https://two.example", "CLAWMETRY_NO_CLOUD": "yes"}, "file:///var/lib/clawmetry/archive"),
    ],
)
def test_environment_decides_where_to(env: dict[str, str], url: str) -> None:
    assert build({"ingest_url": "https://set.example"}, **env).ingest_url == url


def test_environment_of_openclaw_and_nemoclaw_is_kept() -> None:
    settings = build(NEMOCLAW_SANDBOX="build-7", OPENCLAW_PROFILE="dev", CLAWMETRY_NODE_ID="n", HOME="/nowhere")
    assert settings.only == "build-7" and settings.environment == {"OPENCLAW_PROFILE": "dev"} and settings.node_id == "n"


@pytest.mark.parametrize(
    "raw, told",
    [
        ({"poll_intervall": 1}, "poll_interval"),
        ({"ingest_ulr": "x"}, "ingest_url"),
        ({5: 1}, "unknown key 5"),
        ({"sandboxes": {"includes": []}}, "sandboxes.include"),
        ({"sandboxes": []}, "mapping"),
        ({"sandboxes": {"include": "all"}}, "list of texts"),
        ({"ingest_url": "http://ingest.example.com"}, "loopback"),
        ({"ingest_url": "http://127.0.0.1.example.com"}, "loopback"),
        ({"ingest_url": "http://10.0.0.1"}, "loopback"),
        ({"ingest_url": "ftp://x"}, "https"),
        ({"ingest_url": "file://other/archive"}, "file:///"),
        ({"ingest_url": "https://"}, "https://host"),
        ({"ingest_url": "https://a:b@x"}, "password"),
        ({"ingest_url": "https://x/?key=1"}, "query"),
        ({"ingest_url": "https://x:port"}, "not a URL"),
        ({"ingest_url": "https://[::1"}, "not a URL"),
        ({"ingest_url": 5}, "text"),
        ({"node_id": " "}, "text"),
        ({"node_id": "a\nb"}, "text"),
        ({"node_id": "a\rX-Admin: yes"}, "printable"),
        ({"node_id": "\u202eexe.dor"}, "printable"),
        ({"node_id": "n" * 256}, "at most 255"),
        ({"ingest_url": "https://in gest.example"}, "not a URL"),
        ({"ingest_url": "https://exämple.com"}, "not a URL"),
        ({"ingest_url": "file:///srv/a%00b"}, "file:///"),
        ({"ingest_url": "http://[::ffff:127.0.0.1]"}, "loopback"),
        ({"queue_max_bytes": 10**400}, "from 1048576 to"),
        ({"proxy": "http://p:99999"}, "not a URL"),
        ({"proxy": "http://[::1"}, "not a URL"),
        ({"state_dir": "relative"}, "absolute"),
        ({"poll_interval": "1"}, "number"),
        ({"poll_interval": 0}, "number"),
        ({"poll_interval": True}, "number"),
        ({"poll_interval": float("nan")}, "number"),
        ({"queue_max_bytes": 1.5e9}, "whole number"),
        ({"queue_max_bytes": 1000}, "1048576"),
        ({"discover": ["nemoclow"]}, "did you mean nemoclaw"),
        ({"discover": "all"}, "list of texts"),
        ({"routes": ["ssh"]}, "none of proc"),
        ({"docker_host": "tcp://127.0.0.1:2375"}, "unix:///"),
        ({"homes": ["relative"]}, "absolute"),
        ({"proxy": "socks5://x"}, "proxy"),
    ],
)
def test_refusals_name_the_key_and_the_cure(raw: dict[Any, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(raw)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "url, kept",
    [
        ("https://ingest.example.com/", "https://ingest.example.com"),
        ("https://ingest.example.com:8443/base", "https://ingest.example.com:8443/base"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost", "http://localhost"),
        ("file:///srv/a%20b", "file:///srv/a%20b"),
        ("FILE:///srv/a", "file:///srv/a"),
        ("HTTPS://ingest.example.com/", "https://ingest.example.com"),
    ],
)
def test_urls(url: str, kept: str) -> None:
    assert build({"ingest_url": url}).ingest_url == kept


def test_archive_directory_of_an_escaped_url() -> None:
    assert build({"ingest_url": "file:///srv/a%20b"}).archive_dir == "/srv/a b"


def test_capitals_in_a_file_url_still_mean_the_archive() -> None:
    assert build({"ingest_url": "FILE:///srv/a"}).is_archive


def test_a_refused_proxy_does_not_show_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"proxy": "http://name:hunter2@p:99999"})
    assert "hunter2" not in str(caught.value)


def test_what_the_environment_says_wrong_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text("{}")
    for name in ("CLAWMETRY_ENDPOINT", "CLAWMETRY_NODE_ID"):
        with pytest.raises(ConfigError, match="the environment") as caught:
            config.load(str(path), {name: "\x01"})
        assert str(path) not in str(caught.value)


def test_null_is_as_if_not_there_and_lists_keep_our_order() -> None:
    selection = {"include": None, "exclude": ["x*"]}
    settings = build({"node_id": None, "proxy": None, "discover": ["openclaw", "docker"], "sandboxes": selection})
    assert settings.node_id is None and settings.discover == ("docker", "openclaw")
    assert (settings.include, settings.exclude) == (("*",), ("x*",))


def test_user_configuration_keeps_to_the_users_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".config/clawmetry/clawmetry.yml"
    path.parent.mkdir(parents=True)
    path.write_text("state_dir: ~/state\npoll_interval: 2\n")
    settings = config.load(str(path), {})
    assert settings.state_dir == str(tmp_path / "state") and settings.poll_interval == 2
    assert settings.encryption_key_file == str(path.parent / "encryption_key")


@pytest.mark.parametrize(
    "text, told", [("- a\n- b\n", "mapping"), ("a: [", "not YAML"), ("!!python/object:os.system {}", "not YAML"), ("5", "mapping")]
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "c.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        config.load(str(path), {})
    assert str(path) in str(caught.value)


BOMB = "homes:\n- &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    "- &%s [%s]\n" % (this, ",".join(["*" + before] * 9)) for before, this in zip("abcdefghi", "bcdefghij")
)


@pytest.mark.parametrize(
    "text, told",
    [
        (b"node_id: a\nnode_id: b\n", "node_id is there twice"),
        (b'{"node_id": "a", "node_id": "b"}', "node_id is there twice"),
        (b"sandboxes: {include: [a], include: [b]}", "include is there twice"),
        (b"homes: " + b"[" * 5000 + b"]" * 5000, "not YAML"),
        (b"[" * 200_000, "not YAML"),
        (b"node_id: 2026-99-99\n", "not YAML"),
        (b"poll_interval: !!int ''\n", "not YAML"),
        (b"poll_interval: " + b"1" * 5000, "not YAML|must be a number"),
        (b"node_id: caf\xe9\n", "continuation byte"),
        (b"node_id: a\n---\nnode_id: b\n", "another document"),
        (b"sandboxes:\n\tinclude: []\n", "line 2, column 1"),
        (BOMB.encode(), "list of texts"),
        (b"homes: &a [*a]\n", "list of texts"),
    ],
    ids=range(13),
)
def test_files_made_to_confuse_are_told_apart_from_configurations(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "c.yml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=told) as caught:
        config.load(str(path), {})
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_editors_marks_and_line_ends_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_bytes(b"\xef\xbb\xbfnode_id: build-7\r\nsandboxes:\r\n  exclude: [x]\r\n")
    settings = config.load(str(path), {})
    assert settings.node_id == "build-7" and settings.exclude == ("x",)


def test_absent_huge_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(str(tmp_path / "absent"), {})
    (tmp_path / "huge").write_bytes(b"#" * (config.MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="1 MiB"):
        config.load(str(tmp_path / "huge"), {})
    (tmp_path / "empty").write_bytes(b"")
    assert config.load(str(tmp_path / "empty"), {}).poll_interval == 1
    assert os.path.isabs(config.load(str(tmp_path / "empty"), {}).state_dir)


@given(st.dictionaries(st.sampled_from(sorted(config._KEYS)), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_any_values_are_taken_or_refused(raw: dict[str, Any]) -> None:
    try:
        settings = build(raw)
    except ConfigError as exc:
        assert str(exc)
    else:
        assert os.path.isabs(settings.state_dir) and settings.ingest_url
