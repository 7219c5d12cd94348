from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.paths import cache_folder
from bayes_merger.scoring.weights import WeightFile

CONTENT = b"weights " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """A hub with moods: what it does depends on the address."""

    content: ClassVar[bytes] = CONTENT
    tag: ClassVar[str] = '"one"'
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path == "/missing.pth":
            self.send_error(404)
        elif self.path == "/moved.pth":
            self.redirect("/head.pth")
        elif self.path == "/away.pth":
            self.redirect("http://example.invalid/head.pth")
        else:
            self.send()

    def send(self) -> None:
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if self.headers.get("If-Range", self.tag) != self.tag:
            begin = 0
        type(self).asked.append(f"{self.path} {begin}")
        if begin >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        if self.path != "/unmarked.pth":
            self.send_header("ETag", self.tag)
        left = self.content[begin:]
        self.send_header("Content-Length", str(len(left)))
        self.end_headers()
        is_cut = self.path in ("/cut.pth", "/unmarked.pth") and not begin and len(self.asked) == 1
        self.wfile.write(left[:100] if is_cut else left)

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "cache"))
    Hub.content, Hub.asked, Hub.tag = CONTENT, [], '"one"'
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(address: str, sha256: str | None = SHA256) -> Path:
    return WeightFile(address, "scorers.laion.head", sha256).find()


def kept() -> list[str]:
    return sorted(path.name[9:] for path in cache_folder().iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once(hub: str) -> None:
    first = fetch(f"{hub}/head.pth")
    assert first.read_bytes() == CONTENT
    assert fetch(f"{hub}/head.pth") == first
    assert Hub.asked == ["/head.pth 0"]
    assert kept() == ["head.pth", "head.pth.json"]


def test_a_download_that_nobody_watches_says_its_size_and_how_far_it_is(
    hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    Hub.content = bytes(25_000_000)
    fetch(f"{hub}/head.pth", None)
    _, begun, *lines = [record.message for record in caplog.records]
    assert begun == f"scorers.laion.head: fetching {hub}/head.pth, once"
    assert len(lines) == 11
    assert lines[0].startswith("scorers.laion.head: 1 of 25 MB")
    assert lines[5].startswith("scorers.laion.head: 13 of 25 MB, ")
    assert lines[5].endswith(" MB/s, 0 s left")
    assert lines[-1] == "scorers.laion.head: 25 of 25 MB"


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


@pytest.fixture
def cut(hub: str) -> str:
    """The address of a file of which 100 bytes came before the connection broke."""
    with pytest.raises(ConfigError, match=r"cannot fetch .*after 100 of 8000 bytes.*try again"):
        fetch(f"{hub}/cut.pth")
    assert kept() == ["cut.pth.part", "cut.pth.version"]
    return f"{hub}/cut.pth"


def test_a_transfer_that_was_cut_off_goes_on_where_it_ended(cut: str) -> None:
    seen: list[tuple[int, int]] = []
    path = WeightFile(cut, "scorers.laion.head", SHA256).find(lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert Hub.asked == ["/cut.pth 0", "/cut.pth 100"]
    assert seen[-1] == (8000, 8000)
    assert kept() == ["cut.pth", "cut.pth.json"]


def test_a_file_that_has_changed_since_is_fetched_from_its_beginning(cut: str) -> None:
    Hub.tag, Hub.content = '"two"', CONTENT[::-1]
    path = fetch(cut, hashlib.sha256(CONTENT[::-1]).hexdigest())
    assert path.read_bytes() == CONTENT[::-1]
    assert Hub.asked == ["/cut.pth 0", "/cut.pth 0"]


def test_a_server_that_names_no_version_is_asked_from_the_beginning(hub: str) -> None:
    with pytest.raises(ConfigError, match="after 100 of 8000 bytes"):
        fetch(f"{hub}/unmarked.pth")
    assert fetch(f"{hub}/unmarked.pth").read_bytes() == CONTENT
    assert Hub.asked == ["/unmarked.pth 0", "/unmarked.pth 0"]


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_a_process_killed_after_the_last_byte_blocks_nobody(cut: str, left: bytes) -> None:
    (part,) = cache_folder().glob("*.part")
    part.write_bytes(left)
    assert fetch(cut).read_bytes() == CONTENT


def test_a_file_damaged_where_it_was_cut_is_found_and_fetched_again(cut: str) -> None:
    (part,) = cache_folder().glob("*.part")
    part.write_bytes(bytes(100))
    with pytest.raises(ConfigError, match="gave SHA-256"):
        fetch(cut)
    assert fetch(cut).read_bytes() == CONTENT


def test_two_at_once_fetch_it_once(hub: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch, 4 * [f"{hub}/head.pth"]))
    assert len(set(paths)) == 1
    assert Hub.asked == ["/head.pth 0"]


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
    assert Hub.asked == ["/head.pth 0"]


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
    assert WeightFile(str(path), "scorers.laion.head", "0" * 64).find() == path


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.pth", "there is no file"), ("empty.pth", "is empty"), ("folder", "is a folder"), ("", "has no value")],
)
def test_a_local_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.pth").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=message):
        WeightFile(str(tmp_path / name) if name else "", "scorers.laion.head").find()


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
        WeightFile(str(path), "head").open()


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with WeightFile(str(path), "head").open() as file:
        assert file.shapes == {"w": (2,)}
