from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.paths import cache_folder
from bayes_merger.scoring.download import find_weights, open_weights

CONTENT = b"weights " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """A hub with moods: what it does depends on the address."""

    content: ClassVar[bytes] = CONTENT
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path == "/missing.pth":
            self.send_error(404)
        elif self.path == "/moved.pth":
            self.redirect("/head.pth")
        elif self.path == "/away.pth":
            self.redirect("http://example.invalid/head.pth")
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()
            self.wfile.write(self.content[:100] if self.path == "/cut.pth" else self.content)

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "cache"))
    Hub.content, Hub.asked = CONTENT, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(address: str, sha256: str | None = SHA256) -> Path:
    return find_weights(address, setting="scorers.laion.head", sha256=sha256)


def kept() -> list[str]:
    return sorted(path.name[9:] for path in cache_folder().iterdir())


def test_a_file_is_fetched_once(hub: str) -> None:
    first = fetch(f"{hub}/head.pth")
    assert first.read_bytes() == CONTENT
    assert fetch(f"{hub}/head.pth") == first
    assert Hub.asked == ["/head.pth"]
    assert kept() == ["head.pth", "head.pth.json"]


def test_a_redirect_is_followed(hub: str) -> None:
    assert fetch(f"{hub}/moved.pth").read_bytes() == CONTENT


def test_a_redirect_to_plain_http_elsewhere_is_refused(hub: str) -> None:
    with pytest.raises(ConfigError, match=r"example\.invalid/head\.pth is not https"):
        fetch(f"{hub}/away.pth")
    assert kept() == []


def test_a_wrong_hash_leaves_nothing_behind(hub: str) -> None:
    with pytest.raises(ConfigError, match=r"scorers\.laion\.head=/path/to/it") as caught:
        fetch(f"{hub}/head.pth", "0" * 64)
    assert SHA256 in str(caught.value)
    assert kept() == []


def test_a_transfer_that_is_cut_off_leaves_nothing_behind(hub: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot fetch .*100"):
        fetch(f"{hub}/cut.pth")
    assert kept() == []


def test_a_missing_file_says_so_with_the_way_out(hub: str) -> None:
    with pytest.raises(ConfigError, match=r"HTTP 404 .* give scorers\.laion\.head=/path/to/missing\.pth"):
        fetch(f"{hub}/missing.pth")


def test_a_refused_connection_names_file_address_and_setting(hub: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/sac%2Blogos.pth"
    with pytest.raises(ConfigError) as caught:
        fetch(address)
    text = str(caught.value)
    assert address in text
    assert "refused" in text.lower()
    assert "give scorers.laion.head=/path/to/sac+logos.pth" in text
    assert "\n" not in text


def test_a_kept_file_that_was_damaged_is_refused(hub: str) -> None:
    path = fetch(f"{hub}/head.pth")
    path.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="delete it to fetch it again"):
        fetch(f"{hub}/head.pth")
    path.unlink()
    assert fetch(f"{hub}/head.pth").read_bytes() == CONTENT


def test_a_kept_file_only_touched_is_hashed_again_and_fine(hub: str) -> None:
    path = fetch(f"{hub}/head.pth")
    path.touch()
    assert fetch(f"{hub}/head.pth") == path
    assert len(Hub.asked) == 1


def test_without_a_known_hash_the_first_download_is_trusted_and_a_later_change_refused(
    hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch(f"{hub}/head.pth", None)
    assert "trusted this once" in caplog.text
    receipt = json.loads(path.with_name(path.name + ".json").read_text())
    assert receipt["sha256"] == SHA256
    assert fetch(f"{hub}/head.pth", None) == path

    path.unlink()
    Hub.content = b"another file"
    with pytest.raises(ConfigError, match="not the file that was fetched before"):
        fetch(f"{hub}/head.pth", None)
    assert not path.exists()


def test_a_pin_given_later_is_checked_against_the_kept_file(hub: str) -> None:
    fetch(f"{hub}/head.pth", None)
    with pytest.raises(ConfigError, match="not 0000"):
        fetch(f"{hub}/head.pth", "0" * 64)


def test_what_a_killed_download_left_is_cleared_away_when_it_is_old(hub: str) -> None:
    path = fetch(f"{hub}/head.pth")
    old, fresh = (path.with_name(f"{path.name}.{name}.part") for name in ("old", "fresh"))
    for left in (old, fresh):
        left.write_bytes(b"half")
    os.utime(old, (1, 1))
    path.unlink()
    fetch(f"{hub}/head.pth")
    assert (old.exists(), fresh.exists()) == (False, True)


def test_a_cache_one_may_only_read_is_good_enough(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(f"{hub}/head.pth")
    path.with_name(path.name + ".json").unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert fetch(f"{hub}/head.pth") == path


def test_equal_names_at_two_addresses_do_not_meet(hub: str) -> None:
    assert fetch(f"{hub}/one/model.safetensors") != fetch(f"{hub}/two/model.safetensors")


@pytest.mark.parametrize(
    "address", ["http://example.invalid/head.pth", "ftp://127.0.0.1/head.pth", "file:///etc/hosts"]
)
def test_only_https_is_fetched(hub: str, address: str) -> None:
    with pytest.raises(ConfigError, match="is not https"):
        fetch(address)


def test_a_hash_with_a_typing_error_is_found_before_the_download(hub: str) -> None:
    with pytest.raises(ConfigError, match="64 hex digits"):
        fetch(f"{hub}/head.pth", "abc")
    assert Hub.asked == []


def test_a_local_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my head (v1).pth"
    path.write_bytes(b"x")
    assert find_weights(str(path), setting="scorers.laion.head", sha256="0" * 64) == path


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.pth", "there is no file"), ("empty.pth", "is empty"), ("folder", "is a folder"), ("", "has no value")],
)
def test_a_local_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.pth").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=message):
        find_weights(str(tmp_path / name) if name else "", setting="scorers.laion.head")


def test_a_cache_that_cannot_be_written_names_its_variable(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="set BAYES_MERGER_CACHE"):
        fetch(f"{hub}/head.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"<!DOCTYPE html><html>not found</html>",
        (2).to_bytes(8, "little") + b"[]",
        (200).to_bytes(8, "little") + b"{}",
        (60).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}      1234',
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"head: .*x\.safetensors: .*(download|give)"):
        open_weights(path, "head")


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with open_weights(path, "head") as file:
        assert file.shapes == {"w": (2,)}
