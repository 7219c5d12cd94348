"""``scorers``: who can judge, weights fetched from a server of this machine, and a first try."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger import demo
from bayes_merger.cli import main
from bayes_merger.cli.scorers import entries, table
from tests.command_line import refused
from tests.scoring.pictures import noise

DOCS = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with nothing fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAYES_MERGER_CACHE", str(tmp_path / "cache"))
    return tmp_path


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(here: Path) -> Iterator[str]:
    """The address of the working folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["scorers", *arguments]) == 0
    return capsys.readouterr().out


TOWER = [
    "scorers.laion.tower.model=null",
    f"scorers.laion.tower.config={demo.clip_config()}",
    f"scorers.laion.tower.weights={demo.clip_weights()}",
    "scorers.laion.tower.device=cpu",
]


def test_the_list_says_whose_weights_are_here(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {line.split()[0]: line for line in said(capsys).splitlines() if line}
    assert lines["laion"].split()[1] == "missing"
    assert lines["demo_clip"].split()[1] == "here"
    assert lines["sharpness"] == "sharpness                finding blur; noise counts as sharp"
    assert (
        lines["missing:"] == "missing: fetch with  bayes-merger scorers fetch NAME, like  scorers fetch aesthetic_v25"
    )


def test_the_list_loads_neither_torch_nor_a_model() -> None:
    code = "import sys; from bayes_merger.cli import main; print(main(['scorers']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


def test_all_there_is_to_say_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry["name"]: entry for entry in json.loads(said(capsys, "--json"))}
    assert found["laion"]["range"] == "1 to 10, most generated pictures 4 to 7.5"
    head, tower = found["laion"]["weights"]
    assert (head["setting"], head["here"]) == ("scorers.laion.head", False)
    assert head["sha256"] == "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
    assert tower["setting"] == "scorers.laion.tower.weights"
    assert found["sharpness"]["weights"] == []


def test_ones_own_scorers_are_listed_also_where_one_is_broken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "scorers").mkdir()
    (here / "scorers" / "mine.yaml").write_text("# Only \x1b[31mmine\n_target_: bayes_merger.scoring.ScorerBase\n")
    (here / "scorers" / "hopeless.yaml").write_text("_target_: no.such.Thing\n")
    lines = {line.split()[0]: line for line in said(capsys).splitlines() if line}
    assert lines["hopeless"].startswith("hopeless        broken   scorers.hopeless: _target_: nothing is called")
    assert lines["mine"].split()[1] == "broken"  # it has no `score`
    assert lines["laion"].split()[1] == "missing"


def test_weights_are_fetched_once_and_used(here: Path, hub: str, capsys: pytest.CaptureFixture[str]) -> None:
    head = demo.head_path().read_bytes()
    (here / "head.safetensors").write_bytes(head)
    overrides = [f"scorers.laion.head={hub}/head.safetensors", *TOWER]
    pin = f"scorers.laion.head_sha256={hashlib.sha256(head).hexdigest()}"
    first, second = said(capsys, "fetch", "laion", pin, *overrides).splitlines()
    assert first.startswith("laion: ")
    assert "head.safetensors is here now (0.0 MB)" in first
    assert "clip.safetensors was here" in second
    (here / "head.safetensors").unlink()
    assert "head.safetensors was here" in said(capsys, "fetch", "laion", pin, *overrides)
    assert said(capsys, "check", "laion", pin, *overrides).startswith("laion: ")
    assert said(capsys, "fetch", "sharpness") == "sharpness: needs no weights\n"


def test_other_content_than_published_is_refused(here: Path, hub: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "head.safetensors").write_bytes(b"something else")
    error = refused(capsys, "scorers", "fetch", "laion", f"scorers.laion.head={hub}/head.safetensors", *TOWER)
    assert "gave SHA-256" in error
    assert "scorers.laion.head=/path/to/it" in error
    assert [path.name for path in (here / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_check_scores_ones_own_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    width = json.loads(demo.clip_config().read_text())["embed_dim"]
    save_file({"weight": torch.zeros(1, width), "bias": torch.tensor([6.5])}, "head.safetensors")
    noise(1).save("mine.png")
    out = said(
        capsys, "check", "laion", "contrast", "--picture", "mine.png", "scorers.laion.head=head.safetensors", *TOWER
    )
    first, second = out.splitlines()
    assert first.startswith("laion: 6.5 (6.5 points); ")
    assert first.endswith(" s a picture")
    assert second.startswith("contrast: ")
    rater = [word.replace("laion", "rater") for word in TOWER]
    assert said(capsys, "check", "rater", "duplicates", *rater).splitlines()[0].startswith("rater: 5 (5.0 points); ")
    assert said(capsys, "check", "manual") == "manual: asks you, nothing to check\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetsh"], "scorers: no 'fetsh'; did you mean fetch"),
        (["fetch"], "takes names, like  bayes-merger scorers fetch laion"),
        (["check", "lion"], "no 'lion'; did you mean laion"),
        (["check", "laion", "--picture", "absent.png"], "--picture: absent.png cannot be read as a picture"),
        (["check", "laion", "--picture", "text.png"], "--picture: text.png cannot be read as a picture"),
        (["check", "laion", "scorers.laion.head=absent.pth"], "scorers.laion.head: there is no file absent.pth"),
        (["--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_bad_input_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (here / "text.png").write_text("no picture")
    assert message in refused(capsys, "scorers", *arguments)


def test_the_table_of_the_docs_is_that_of_the_files() -> None:
    text = (DOCS / "docs/scorers.md").read_text(encoding="utf-8")
    assert table() in text, "put what  bayes-merger scorers --markdown  prints into docs/scorers.md"


def test_every_scorer_is_on_the_first_page_by_what_it_is_for() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8").partition("| for | take |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", text))
    known = {entry.name for entry in entries()}
    assert named <= known
    assert known - named == {"chad", "demo_aesthetic", "demo_clip", "hpsv2", "laion_v1"}


def test_every_scorer_says_what_it_is_good_for() -> None:
    for entry in entries():
        assert {"text", "good for", "range", "tested"} <= set(entry.about), entry.name
        assert ("licence" in entry.about) == any(file.is_address for file in entry.files), entry.name


def test_the_drawn_picture_is_no_blank_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert 4 < float(said(capsys, "check", "contrast").split("(")[1].split()[0]) < 8
