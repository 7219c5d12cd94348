"""Settings as they are typed and as a working folder has them: text is text, and a mistake names its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bayes_merger import compose, demo
from bayes_merger.errors import ConfigError

MODELS = ["model_a=a.safetensors", "model_b=b.safetensors"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("payloads/p.yaml", "p:\n  prompt: a ring\n  steps: 2\n  sampler_name: DDIM\n")
    write("payloads/noob.v1.yaml", "prompt: a disc\n")
    return tmp_path


def write(name: str, text: str | bytes) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def composed(*overrides: str) -> dict[str, object]:
    return compose.compose_run([*MODELS, *overrides])


def payloads(*overrides: str) -> dict[str, dict[str, object]]:
    found = composed(*overrides)["payloads"]
    assert isinstance(found, dict)
    return found


PROMPTS = [
    "masterpiece, best quality, 1girl",
    r"tifa \(final fantasy\)",
    r"\,\[\=\\",
    "red, (blue:1.2)",
    "[dark] forest",
    "[dark]",
    "'quoted'",
    '"quoted", and "more"',
    "1",
    "null",
    "choice(a,b)",
    "range(0,3)",
    "{a|b}: c",
    "${oc.env:HOME} ${x} \\${y} ${z=!{a|b}}",
    "naïve größe 猫",
    "a=b, @c #d %e &f *g !h",
    "",
    "trailing \\",
    "\x02" + "0\x03",
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_text_to_the_letter(prompt: str, folder: Path) -> None:
    assert payloads("payloads=[p]", f"payloads.p.prompt={prompt}")["p"]["prompt"] == prompt
    stored = composed("payloads=[p]", f"payloads.p.negative_prompt={prompt}")
    again = compose.changed(compose.changed(stored, ["n_iters=5"]), ["n_iters=6"])
    assert again == {**stored, "n_iters": 6}
    assert compose.validate(again).payloads["p"]["negative_prompt"] == prompt
    assert compose.changed(stored, [f"payloads.p.prompt={prompt}"])["payloads"]["p"]["prompt"] == prompt


def test_fields_are_set_by_any_name(folder: Path) -> None:
    chosen = "payloads=[p,noob.v1]"
    assert payloads(chosen, "payloads.noob.v1.steps=30")["noob.v1"] == {"prompt": "a disc", "steps": 30}
    assert payloads(chosen, "payloads.p.sampler_index=Euler")["p"]["sampler_index"] == "Euler"
    assert "sampler_name" not in payloads(chosen, "payloads.p.sampler_index=Euler")["p"]
    clip = payloads(chosen, "payloads.p.override_settings.CLIP_stop_at_last_layers=2")["p"]
    assert clip["override_settings"] == {"CLIP_stop_at_last_layers": 2}
    assert payloads(chosen, "payloads.p={steps: 4, cfg: 3}")["p"]["cfg"] == 3
    assert list(payloads(chosen, "~payloads.p")) == ["noob.v1"]
    assert list(payloads("payloads=p")) == ["p"]
    with pytest.raises(ConfigError, match=r"payloads\.pp: no payload is called so; did you mean p"):
        payloads(chosen, "payloads.pp.steps=3")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["portrait 2", "2 dogs", "7", "true", "1e5", "it's"])
def test_a_payload_may_be_named_by_numbers(folder: Path, name: str) -> None:
    (folder / f"payloads/{name}.yaml").write_text("prompt: a cat\n", encoding="utf-8")
    assert list(payloads(f"payloads=[{name},p]")) == [name, "p"]
    assert list(payloads(f"payloads={name}")) == [name]


@pytest.mark.parametrize(
    "chosen", ["payloads=p,noob.v1", "payloads=[p,noob.v1]", "payloads=p, 'noob.v1'", "payloads=[ \"p\" , 'noob.v1']"]
)
def test_a_list_needs_no_brackets(chosen: str, folder: Path) -> None:
    assert list(payloads(chosen)) == ["p", "noob.v1"]
    settings = composed("scorers=laion,clip", "objectives=laion,clip", "scoring.payloads.clip=p,noob.v1")
    assert list(settings["scorers"]) == ["laion", "clip"]  # type: ignore[call-overload]
    assert settings["objectives"] == ["laion", "clip"]
    assert settings["scoring"]["payloads"] == {"clip": ["p", "noob.v1"]}  # type: ignore[index]
    assert composed("scoring.payloads.clip=p")["scoring"]["payloads"] == {"clip": ["p"]}  # type: ignore[index]
    changed = compose.changed(settings, ["scorers=clip,laion"])
    assert list(changed["scorers"]) == ["clip", "laion"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("device=cuda", "generator.device=cuda"),
        ("batch_size=2", "payloads.NAME.batch_size"),
        ("merge_mode=weighted_sum", "method=weighted_sum"),
        ("scorer_method=chad", "scorers=laion,clip"),
        ("url=http://127.0.0.1:7860", "draws by itself"),
        ("prompt=a cat", "payloads.NAME.prompt"),
        ("cfg_scale=7", "payloads.NAME.cfg_scale"),
        ("alpha=0.3", "space.frozen.IN00=0.5"),
        ("base_alpha=0.3", "space.frozen.IN00=0.5"),
        ("IN00.alpha=0.3", "space.frozen.IN00=0.5"),
        ("rescore=3", "did you mean final.rescore"),
        ("n_iter=1", "did you mean n_iters"),
        ("max_batch=1", "did you mean generator.max_batch"),
        ("model_paths=[a,b]", "model_a=FILE model_b=FILE"),
        ("optimization_guide=guide", "space=guide"),
        ("scorer_weight.laion=2", "scorers.NAME.importance=2"),
        ("optimizer.init_points=3", "did you mean init_points"),
        ("load_log_file=x", "bayes-merger resume NAME"),
        ("base_model_index=0", "of which C is the common ancestor"),
    ],
)
def test_names_of_other_programs_are_answered(override: str, meant: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(override)
    assert override.partition("=")[0] in str(caught.value)
    assert meant in str(caught.value)


def test_what_a_shell_has_torn_apart_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a list may need quotes, like  'payloads=p,street'"):
        composed("payloads=p", "street")
    with pytest.raises(ConfigError, match="only double quotes hold words together"):
        composed("'payloads.p.prompt=a", "ring'")


def test_files_may_be_chosen_as_a_shell_completes_them(folder: Path) -> None:
    settings = composed(
        "payloads=payloads/p.yaml,", "scorers=[./scorers/clip.yaml,]", "optimiser=conf/optimiser/tpe.yaml"
    )
    assert (list(settings["payloads"]), list(settings["scorers"])) == (["p"], ["clip"])  # type: ignore[call-overload]
    assert settings["optimiser"]["_target_"] == "bayes_merger.search.samplers.tpe"  # type: ignore[index]


def test_a_file_of_another_program_is_answered(folder: Path) -> None:
    (folder / "conf" / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "experiment" / "theirs.yaml").write_text("defaults:\n  - optimisation_guide: guide\n")
    with pytest.raises(ConfigError, match=r"no group 'optimisation_guide'; here it is  space=guide"):
        composed("experiment=theirs")
    (folder / "conf" / "config.yaml").write_text("run_name: x\n")
    with pytest.raises(ConfigError, match=r"conf/config.yaml: unknown setting 'run_name'; here it is  name=NAME"):
        composed()


def test_an_experiment_chooses_and_sets_payloads(folder: Path) -> None:
    write("conf/experiment/mine.yaml", "defaults: [{override /payloads: [p]}]\npayloads: {p: {steps: 9}}\nn_iters: 3\n")
    settings = composed("experiment=mine")
    assert settings["payloads"] == {"p": {"prompt": "a ring", "steps": 9, "sampler_name": "DDIM"}}
    assert settings["n_iters"] == 3
    assert list(payloads("experiment=mine", "payloads=[noob.v1]")) == ["noob.v1", "p"]


@pytest.mark.parametrize("suffix", ["a,b ${c} [d].pth", "größe=(1).pth"])
def test_paths_and_names_are_text(suffix: str, folder: Path) -> None:
    settings = composed(f"model_c={suffix}", f"scorers.laion.head={suffix}", f"wildcards={suffix}", "name=007")
    assert (settings["model_c"], settings["wildcards"], settings["name"]) == (suffix, suffix, "007")
    scorers = settings["scorers"]
    assert isinstance(scorers, dict)
    assert scorers["laion"]["head"] == suffix
    assert compose.validate(settings).model_c == suffix


def test_a_demo_model_is_resolved_once(folder: Path) -> None:
    settings = composed("model_c=${demo:c}")
    assert settings["model_c"] == str(demo.paths()["c"])
    assert compose.changed(settings, ["model_b=${demo:b}"])["model_b"] == str(demo.paths()["b"])
    assert compose.changed(settings | {"model_a": "${demo:a}"}, [])["model_a"] == "${demo:a}"


def test_a_recipe_s_paths_are_text(folder: Path) -> None:
    write("r.yaml", "models: {a: '${oc.env:HOME}', b: b}\nsteps: [{a: a, b: b, alpha: search}]\n")
    settings = compose.compose_run(["recipe=r.yaml"])
    assert settings["recipe"]["models"]["a"] == settings["model_a"] == "${oc.env:HOME}"


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+n_iters=1", r"\+n_iters: a setting is given without \+, like  n_iters="),
        ("++x=1", r"a setting is given without \+"),
        ("hydra.run.dir=x", "hydra.run.dir: Hydra's own settings are not used"),
        ("hydra/launcher=x", "Hydra's own settings are not used"),
        ("hydra.job.chdir=true", "Hydra's own settings are not used"),
        ("--config-name=x", "no option '--config-name' here"),
        ("--cd", "no option '--cd' here"),
        ("payloads@x=p", "Hydra's packages are not used"),
        ("n_iters", "settings are given like  name=value"),
        ("=3", "argument '=3': settings are given like  name=value"),
        ("~scorers", "~scorers: nothing is taken away"),
        ("scorers=null", "scorers: null is no choice; known: aesthetic_v25"),
        ("größe=1", "'größe' is no setting's name"),
        ("a b=c", "'a b' is no setting's name"),
        ("seed=1,2", "seed=1,2: several values; .*--multirun"),
        ("optimiser=bayes,gp", "optimiser=bayes,gp: several values; .*--multirun"),
        ("optimiser=größe", "optimiser: no 'größe'"),
        ("scorers=[größe]", "scorers: no 'größe'"),
        ("seed=${oc.env:NOT_THERE_AT_ALL}", "NOT_THERE_AT_ALL"),
        ("n_iters=" + "9" * 10_000, "not understood"),
        ("x" * 30_000 + "=1", ""),
        ("optimiser=" + "x" * 30_000, ""),
        ("payloads=" + "x" * 30_000, "no 'xxx"),
        ("payloads.p.steps=[", "payloads.p.steps: .*not valid YAML"),
    ],
)
def test_a_mistake_is_one_short_line(override: str, words: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=words or ".") as caught:
        composed("payloads=[p]", override)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_an_own_configuration_of_a_few_values_lies_over_ours(folder: Path) -> None:
    write("conf/config.yaml", "n_iters: 77\noptimiser: tpe\ngenerator: {max_batch: 2}\ndefaults:\n  - payloads: [p]\n")
    settings = composed()
    assert (settings["n_iters"], settings["seed"], list(payloads())) == (77, 0, ["p"])
    assert settings["optimiser"]["_target_"].endswith("tpe")  # type: ignore[index]
    assert settings["generator"]["max_batch"] == 2  # type: ignore[index]
    assert composed("n_iters=5", "optimiser=gp")["n_iters"] == 5
    assert compose.compose_run(["experiment=demo"])["n_iters"] == 20
    write("conf/config.yaml", "")
    assert composed()["n_iters"] == 70


def test_a_whole_configuration_takes_the_place_of_ours(folder: Path) -> None:
    text = "defaults: [schema, {optimiser: tpe}, {payloads: [p]}, {scorers: [laion]}, _self_]\nn_iters: 7\n"
    write("conf/config.yaml", text + "model_a: a\nmodel_b: b\n")
    settings = composed()
    assert (settings["n_iters"], settings["init_points"], settings["space"]) == (7, 10, {})


def test_a_name_with_a_blank_is_answered_with_quotes(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        composed("payloads=[p]", "model_a=my", "model.safetensors")
    assert str(caught.value).endswith('if it belongs to what is before it, quote both:  "model_a=my model.safetensors"')
    with pytest.raises(ConfigError) as caught:
        composed("payloads=[p]", "n_iters", "=", "30")
    assert str(caught.value) == "argument 'n_iters': settings are given like  name=value; no blanks around ="


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config", "n_iter: 7\n", r"^conf/config.yaml: unknown setting 'n_iter'; did you mean n_iters"),
        ("config", "n_iters: many\n", r"^conf/config.yaml: n_iters: 'many' is not a whole number"),
        ("config", "n_iters: [\n", r"^conf/config.yaml, line 2: not valid YAML"),
        ("config", "- a\n", r"^conf/config.yaml: holds no settings"),
        ("config", b"n_iters: 7 # \xff\n", r"^conf/config.yaml: cannot be read"),
        ("config", "generator: {max_batchs: 7}\n", r"^conf/config.yaml: unknown setting 'max_batchs'"),
        (
            "config",
            "defaults: [{optimisation_guide: guide}]\n",
            r"^conf/config.yaml: defaults: no group 'optimisation_gu",
        ),
        ("config", "optimiser: tpee\n", "optimiser: no 'tpee'; did you mean tpe"),
        ("experiment/x", "n_iter: 7\n", r"^conf/experiment/x.yaml: unknown setting 'n_iter'"),
        ("experiment/x", "n_iters: many\n", r"^conf/experiment/x.yaml: n_iters: 'many' is not a whole number"),
        ("experiment/x", "payloads: {p: {prompt: '${a=!{b|c}}'}}\n", r"^conf/experiment/x.yaml: .*write \\\$\{"),
    ],
)
def test_a_mistake_in_a_file_names_it(name: str, text: str | bytes, words: str, folder: Path) -> None:
    write(f"conf/{name}.yaml", text)
    with pytest.raises(ConfigError, match=words) as caught:
        composed(*(["experiment=x"] if name != "config" else []))
    assert len(str(caught.value)) < 300


def test_two_scorers_with_one_key_name_both_files(folder: Path) -> None:
    write("scorers/a.yaml", "s:\n  _target_: x.Y\n")
    write("scorers/b.yaml", "s:\n  _target_: x.Z\n")
    write("scorers/c.v1.yaml", "_target_: x.Z\n")
    with pytest.raises(ConfigError, match=r"scorers: scorers/a.yaml and scorers/b.yaml both hold 's'"):
        composed("scorers=[a,b]")
    assert composed("scorers=[a,c.v1]")["scorers"] == {"s": {"_target_": "x.Y"}, "c.v1": {"_target_": "x.Z"}}


def test_settings_are_shown_as_yaml_that_says_the_same(folder: Path) -> None:
    import yaml

    overrides = [*MODELS, "payloads=[p]", "payloads.p.prompt=${a}: 'b', 1e5", "name=1e5"]
    assert yaml.safe_load(compose.settings_text(overrides)) == compose.compose_run(overrides)


def test_an_experiment_chooses_as_one_types(folder: Path) -> None:
    write("scorers/s.yaml", "_target_: s.S\n")
    plainly = "model_a: a.safetensors\npayloads: [p, noob.v1]\nscorers: [s]\noptimiser: tpe\nn_iters: 3\n"
    write("conf/experiment/plain.yaml", plainly)
    write("conf/experiment/more.yaml", "defaults:\n  - plain\noptimiser: bayes\nn_iters: 5\n")
    settings = compose.compose_run(["experiment=plain", "model_b=b.safetensors"])
    assert (list(settings["payloads"]), list(settings["scorers"]), settings["n_iters"]) == (["p", "noob.v1"], ["s"], 3)
    assert settings["optimiser"]["_target_"].endswith(".tpe")
    assert list(payloads("experiment=plain", "payloads=p")) == ["p"]
    settings = compose.compose_run(["experiment=more", "model_b=b.safetensors"])
    assert (list(settings["scorers"]), settings["n_iters"], settings["model_a"]) == (["s"], 5, "a.safetensors")
    assert settings["optimiser"]["_target_"].endswith(".bayes")


def test_one_value_where_there_are_several_is_told_so(folder: Path) -> None:
    for override, words in (
        ("final=false", "final: False is one value where there are several"),
        ("scorers={laion: 2}", "scorers: is a list of names, like  scorers=one,two; how much each counts is  scorers."),
        ("payloads={p: 2}", "payloads: is a list of names, like  payloads=one,two"),
    ):
        with pytest.raises(ConfigError, match=words):
            composed(override)


def test_a_study_keeps_the_numbers_that_its_own_scorers_were_given(folder: Path) -> None:
    infinite = {"s": {"_target_": "s.S", "limit": float("inf"), "other": [1.0]}}
    write("scorers/s.yaml", "_target_: s.S\n")
    stored = {**composed("scorers=s"), "scorers": infinite}
    assert compose.changed(stored, ["n_iters=5"])["scorers"] == infinite
    with pytest.raises(ConfigError, match=r"scorers\.s\.other: inf is no number to reckon with"):
        compose.changed(stored, ["scorers.s.other=inf"])
    with pytest.raises(ConfigError, match=r"space\.frozen\.IN00: inf is no number"):
        compose.changed({**stored, "space": {"frozen": {"IN00": float("inf")}}}, [])
