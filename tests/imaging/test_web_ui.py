"""The client of a web UI, against a server that speaks its API."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import BayesMergerError, ConfigError, TrialFailed
from bayes_merger.imaging import resolve
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.payload.passed_on import Request, payload_for_web_ui, requests
from bayes_merger.imaging.server import CREDENTIALS
from bayes_merger.imaging.web_ui import WebUI
from tests.web_ui import State, web_ui

FIELDS = {
    "prompt": "a ring",
    "sampler_name": "Euler",
    "steps": 3,
    "width": 64,
    "height": 64,
    "seed": 7,
    "batch_size": 2,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[State]:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with web_ui(tmp_path) as state:
        yield state


def client(server: State, **settings: Any) -> WebUI:
    return WebUI(server.address, **{"timeout": 20.0, "pauses": (), **settings})


def payload(**fields: Any) -> Payload:
    return resolve([payload_for_web_ui("p", {**FIELDS, **fields})], 0)[0]


def request(**fields: Any) -> Request:
    return next(iter(requests([payload(**fields)], 8)))


def test_pictures_come_back_with_the_web_ui_s_own_text(server: State) -> None:
    server.grid = True
    first, second = client(server).draw(request(), "model.safetensors", "model.safetensors")
    assert first.image.size == second.image.size == (64, 64)
    assert first.image.tobytes() != second.image.tobytes()
    assert first.parameters.startswith("a ring\nSteps: 3, Seed: 7, Model hash: ")
    assert "Seed: 8" in second.parameters


def test_the_request_is_the_payload_s_fields_and_the_model(server: State) -> None:
    fields = {"clip_skip": 2, "restore_faces": True, "alwayson_scripts": {"x": {"args": [1]}}, "save_images": True}
    client(server).draw(request(**fields), "model.safetensors", "model.safetensors")
    assert server.asked[0].pop("force_task_id").startswith("task(bayes-merger-")
    assert server.asked == [
        {
            "restore_faces": True,
            "alwayson_scripts": {"x": {"args": [1]}},
            "prompt": "a ring",
            "negative_prompt": "",
            "steps": 3,
            "cfg_scale": 7.0,
            "width": 64,
            "height": 64,
            "sampler_name": "Euler",
            "scheduler": "Automatic",
            "seed": 7,
            "subseed_strength": 0.0,
            "batch_size": 2,
            "n_iter": 1,
            "override_settings": {"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "model.safetensors"},
            "override_settings_restore_afterwards": True,
            "send_images": True,
            "save_images": False,
        }
    ]


def test_a_second_pass_in_forge_is_told_that_it_has_the_first_one_s_modules() -> None:
    assert "hr_additional_modules" not in request().body("m")
    assert request(enable_hr=True).body("m")["hr_additional_modules"] == ["Use same choices"]
    own = request(enable_hr=True, hr_additional_modules=["clip.safetensors"]).body("m")
    assert own["hr_additional_modules"] == ["clip.safetensors"]


def test_a_second_pass_like_the_first_is_said_by_leaving_it_out() -> None:
    same = {"hr_sampler_name": "Use same sampler", "hr_scheduler": "Use same scheduler", "hr_upscaler": "Latent"}
    body = request(enable_hr=True, **same).body("m")
    assert {field for field in body if field.startswith("hr_")} == {"hr_upscaler", "hr_additional_modules"}


def test_settings_of_one_payload_do_not_stay_for_the_next_nor_for_the_user(server: State) -> None:
    before, one = dict(server.options), client(server)
    for fields in ({}, {"emphasis": "No norm"}, {}, {"clip_skip": 2}, {"rng": "cpu"}):
        one.draw(request(**fields), "model.safetensors", "model.safetensors")
    assert [drawn["emphasis"] for drawn in server.drawn_with] == ["Original", "No norm", *["Original"] * 3]
    assert [drawn["randn_source"] for drawn in server.drawn_with] == ["GPU"] * 4 + ["CPU"]
    one.leave()
    assert {name: server.options[name] for name in before} == before


def test_who_leaves_a_web_ui_that_has_gone_says_nothing(server: State) -> None:
    one = client(server)
    one.draw(request(emphasis="No norm"), "model.safetensors", "model.safetensors")
    server.api = False
    one.leave()


def test_a_model_is_found_once_it_lies_in_the_folder(server: State) -> None:
    with pytest.raises(BayesMergerError, match=r"^generator.models_folder: .* does not list new.safetensors"):
        client(server).title_of("new.safetensors")
    (server.folder / "new.safetensors").write_bytes(b"other")
    assert client(server).title_of("new.safetensors") == "new.safetensors"


def test_only_settings_that_change_pictures_are_remembered(server: State) -> None:
    assert client(server).check([payload()]) == {"emphasis": "Original", "randn_source": "GPU"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampler_name": "Eular"}, r"^payload p: sampler_name: the web UI has no 'Eular'; did you mean Euler\?"),
        ({"sampler_name": "k_euler"}, "^payload p: sampler_name: the web UI has no 'k_euler'; did you mean Euler"),
        ({"scheduler": "Karas"}, "^payload p: scheduler: the web UI has no 'Karas'; did you mean "),
        ({"sampler_name": "Euler Kar"}, "^payload p: sampler_name: the web UI has no 'Euler Kar'"),
        ({"enable_hr": True, "hr_upscaler": "Latend"}, "hr_upscaler: the web UI has no 'Latend'; did you mean Latent"),
        ({"enable_hr": True, "hr_sampler_name": "Euler Karras"}, "hr_sampler_name: the web UI has no 'Euler Karras'"),
        ({"enable_hr": True, "hr_scheduler": "Karas"}, "hr_scheduler: the web UI has no 'Karas'; did you mean karras"),
        ({"enable_hr": True, "hr_upscaler": 4}, "hr_upscaler: the web UI has no 4; known: Lanczos"),
        (
            {"enable_hr": True, "hr_sampler_name": ["Euler"]},
            "hr_sampler_name: the web UI has no .'Euler'.; did you mean Euler",
        ),
        ({"override_settings": {"emphasys": 1}}, "override_settings: the web UI has no 'emphasys'; did you mean emph"),
        ({"clip_skip": 2}, "override_settings: the web UI has no 'CLIP_stop_at_last_layers'"),
        ({"styles": ["inc"]}, "styles: the web UI has no 'inc'; did you mean ink"),
        ({"prompt": "a <lora:fir:1> b"}, "prompt: the web UI has no LoRA 'fir'; did you mean fur"),
        ({"prompt": "<lyco:b:1>", "seed": 1}, "prompt: the web UI has no LoRA 'b'"),
    ],
)
def test_what_it_would_leave_out_or_draw_otherwise_is_said_before_anything_is_drawn(
    server: State, fields: dict[str, Any], said: str
) -> None:
    server.loras = {"fur": "long fur"}
    with pytest.raises(ConfigError, match=said):
        client(server).check([payload(**fields)])
    assert server.asked == []


def test_what_it_has_is_taken_by_all_its_names(server: State) -> None:
    server.loras, server.new_loras = {"fur": "long fur"}, {"ink": "ink"}
    second = {
        "enable_hr": True,
        "hr_upscaler": "Latent",
        "hr_sampler_name": "Use same sampler",
        "hr_scheduler": "Karras",
    }
    for fields in (second, {"enable_hr": True}, {"prompt": "<lora:long fur:1><lora:ink:0.5:0.2>"}, {"styles": ["ink"]},
                   {"override_settings": {"randn_source": "CPU"}}, {"hr_upscaler": "of no second pass"}):  # fmt: skip
        assert client(server).check([payload(**fields)])
    lists = ("loras", "upscalers", "latent-upscale-modes", "prompt-styles")
    server.refuses = tuple(f"/sdapi/v1/{name}" for name in lists)
    assert client(server).check([payload(prompt="<lora:any:1>", styles=["any"], enable_hr=True, hr_upscaler="any")])
    server.refuses = ("/sdapi/v1/latent-upscale-modes",)  # others list these nowhere, or among the upscalers
    assert client(server).check([payload(enable_hr=True, hr_upscaler="Latent")])


@pytest.mark.parametrize("name", ["Restart", "DPM++ 2M Karras", "DPM++ 2M karras"])
def test_samplers_of_the_web_ui_are_taken_in_all_spellings(server: State, name: str) -> None:
    assert client(server).check([payload(sampler_name=name)])


def test_a_web_ui_that_is_not_there_or_says_no(server: State, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"^generator.address: no web UI answers at {nobody}.* start it with  --api"
        ):
            WebUI(nobody, 5.0, pauses=()).check([])
    server.api = False
    with pytest.raises(ConfigError, match=r"has no /sdapi/v1/options; start the web UI with  --api$"):
        client(server).check([])
    server.api, server.auth = True, "me:secret"
    with pytest.raises(ConfigError, match=f"wants another USER:PASSWORD than {CREDENTIALS} holds$"):
        client(server).check([])
    monkeypatch.setenv(CREDENTIALS, "me:secret")
    assert client(server).check([])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:7860", "is no address of a web UI"),
        ("file:///etc/passwd", "is no address of a web UI"),
        ("http://", "is no address of a web UI"),
        ("http://host:port", "is no address of a web UI"),
        ("http://[::1", "is no address of a web UI"),
        ("http://me:secret@127.0.0.1:7860", "put USER:PASSWORD into BAYES_MERGER_WEBUI_AUTH$"),
    ],
)
def test_addresses(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        WebUI(address, 5.0)
    assert "secret" not in str(caught.value)


def error(name: str, text: str) -> dict[str, Any]:
    return {"error": name, "detail": "", "body": "", "errors": text}


@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        ((500, error("OutOfMemoryError", "CUDA out of memory")), TrialFailed, "OutOfMemoryError: CUDA out of memory"),
        ((500, error("NansException", "A tensor with NaNs")), TrialFailed, "NansException"),
        (
            (500, {"error": "ZeroDivisionError", "detail": "", "body": "", "message": "integer division by zero"}),
            TrialFailed,
            "cannot draw it: ZeroDivisionError: integer division by zero$",  # Forge's
        ),
        ((500, b"<html>"), TrialFailed, "no reason given"),
        ((500, error("X", "\x1b[31m" + "y" * 5000)), TrialFailed, r"X: \?\[31my"),
        ((422, {"detail": [{"loc": ["body", "steps"]}]}), BayesMergerError, "does not take it: .*steps"),
        (
            (404, {**error("HTTPException", "404: Sampler not found"), "detail": "Sampler not found"}),
            BayesMergerError,
            "answers /sdapi/v1/txt2img with 404: HTTPException: 404: Sampler not found$",
        ),
        ((302, {}), BayesMergerError, "sends elsewhere, which is not followed"),
        ((200, b"not json"), BayesMergerError, "answer is not that of txt2img"),
        ((200, b"[" * 100_000), BayesMergerError, "answer is not that of txt2img"),
        ((200, {"info": "{}", "images": []}), BayesMergerError, "answer is not that of txt2img"),
        ((200, {"info": "[]", "images": []}), BayesMergerError, "answer is not that of txt2img"),
    ],
)
def test_what_goes_wrong_there_is_told_in_a_line(server: State, trouble: Any, kind: type, said: str) -> None:
    server.trouble = [trouble]
    with pytest.raises(BayesMergerError, match=said) as caught:
        client(server).draw(request(), "model.safetensors", "model.safetensors")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("payload p, seed 7: ") or trouble[0] in (302, 404)


@pytest.mark.parametrize("flag", ["interrupted", "skipped", "stopping_generation"])
def test_a_picture_that_somebody_there_has_ended_early_is_no_picture(server: State, flag: str) -> None:
    server.state = {flag: True}
    with pytest.raises(TrialFailed, match=r"^payload p, seed 7: the web UI cannot draw it: it was interrupted$"):
        client(server).draw(request(), "model.safetensors", "model.safetensors")


@pytest.mark.parametrize("picture", ["", "!", "aGVsbG8=", "http://192.0.2.1/x.png", "R0lGODlhAQABAAAAACw="])
def test_what_is_no_picture_is_refused(server: State, picture: str) -> None:
    server.answer = {"images": [picture, picture]}
    with pytest.raises(BayesMergerError, match=r"sent (no|is no) picture"):
        client(server).draw(request(), "model.safetensors", "model.safetensors")


def test_other_pictures_than_those_asked_for_are_refused(server: State) -> None:
    (server.folder / "another.safetensors").write_bytes(b"")
    server.refresh()
    with pytest.raises(BayesMergerError, match="drew with another, not with gone"):
        client(server).draw(request(), "gone.safetensors", "gone.safetensors")
    server.info = {"all_seeds": [7, 7]}
    with pytest.raises(BayesMergerError, match=r"drew seeds \[7, 7\], not \[7, 8\]"):
        client(server).draw(request(), "model.safetensors", "model.safetensors")
    server.info, server.answer = {}, {"images": []}
    with pytest.raises(BayesMergerError, match="drew 0 pictures, not 2"):
        client(server).draw(request(), "model.safetensors", "model.safetensors")


def test_one_that_does_not_answer_in_time(server: State) -> None:
    server.delay = 2.0
    with pytest.raises(BayesMergerError, match=r"has not answered /sdapi/v1/txt2img for 0.2 s.*generator.timeout="):
        client(server, timeout=0.2).draw(request(), "model.safetensors", "model.safetensors")

    assert server.interrupted == [server.asked[0]["force_task_id"]]


@pytest.mark.parametrize("state", [{"busy": "task(someone's)"}, {"headless": True}])
def test_nobody_else_s_drawing_is_ended(server: State, state: dict[str, Any]) -> None:
    server.delay = 2.0
    vars(server).update(state)
    with pytest.raises(BayesMergerError, match="has not answered"):
        client(server, timeout=0.2).draw(request(), "model.safetensors", "model.safetensors")
    assert server.interrupted == []


def test_who_presses_ctrl_c_leaves_nothing_to_be_drawn_for_nobody(server: State) -> None:
    server.begun = lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    server.delay = 2.0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            client(server).draw(request(), "model.safetensors", "model.safetensors")
    finally:
        signal.signal(signal.SIGINT, before)
    assert server.interrupted == [server.asked[0]["force_task_id"]]


def test_one_that_comes_back_is_waited_for(server: State) -> None:
    told: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        gone = WebUI(f"http://127.0.0.1:{port}", 5.0, pauses=(0.0, 0.0), waiting=told.append)
        with pytest.raises(BayesMergerError, match="no web UI answers"):
            gone.files()
    assert len(told) == 1
    assert "waiting for it" in told[0]


def test_requests_hold_what_has_the_same_words_and_follows_in_the_seeds() -> None:
    whole = payload(batch_size=5)
    assert [one.indices for one in requests([whole], 2)] == [(0, 1), (2, 3), (4,)]
    assert [one.indices for one in requests([whole.picked([0, 2, 3])], 4)] == [(0,), (1, 2)]
    words = replace(whole, prompts=("a", "a", "b", "b", "a"))
    assert [one.indices for one in requests([words], 4)] == [(0, 1), (2, 3), (4,)]
    varied = payload(batch_size=3, subseed=5, subseed_strength=0.5)
    (one,) = requests([varied], 4)
    assert (one.body("m")["seed"], one.body("m")["subseed"], one.indices) == (7, 5, (0, 1, 2))
