"""Settings by the names that other programs give them, and by their last names: what each is called here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from bayes_merger.errors import nearest
from bayes_merger.imaging.payload.fields import is_field

CALLED = {
    # sd-webui-bayesian-merger
    "batch_size": "payloads.NAME.batch_size=2",
    "best_format": "final.save=true, which writes best.safetensors",
    "best_precision": "dtype=fp16",
    "bounds_transformer": "optimiser=bayes_classic optimiser.bounds_transformer=true",
    "device": "generator.device=cuda",
    "guided_optimisation": "space=guide",
    "latin_hypercube_sampling": "design=lhs",
    "merge_mode": "method=weighted_sum",
    "optimisation_guide": "space=guide",
    "run_name": "name=NAME",
    "save_best": "final.save=true",
    "save_imgs": "images=all",
    "scorer_device": "scorers.laion.tower.device=cpu",
    "scorer_model_dir": "scorers.laion.head=FILE, or BAYES_MERGER_CACHE=FOLDER before the command",
    "scorer_method": "scorers=laion,clip",
    "url": "generator=webui generator.address=http://127.0.0.1:7860, or nothing: this program draws by itself",
    "wildcards_dir": "wildcards=FOLDER",
    # sd-optim
    "acquisition_function": "optimiser=bayes_classic optimiser.acquisition=ucb",
    "add_extra_keys": "nothing: the keys of a v-prediction model are kept",
    "base_model_index": "model_a=FILE model_b=FILE model_c=FILE, of which C is the common ancestor",
    "early_stopping": "patience=40",
    "img_average_type": "nothing: a payload's pictures count alike; scoring.mean is for several scorers",
    "load_log_file": "bayes-merger resume NAME",
    "merge_dtype": "nothing: merges are computed in fp32; dtype=fp16 is of the file",
    "merge_method": "method=weighted_sum",
    "model_paths": "model_a=FILE model_b=FILE",
    "n_jobs": "workers=2",
    "optimization_guide": "space=guide",
    "optimization_mode": "nothing: recipe=STEPS.yaml searches a recipe in several steps",
    "optimizer": "optimiser=bayes",
    "random_state": "seed=0",
    "save_dtype": "dtype=bf16",
    "scorer_average_type": "scoring.mean=geometric",
    "scorer_default_device": "scorers.laion.tower.device=cpu",
    "scorer_alt_location": "scorers.laion.head=FILE scorers.laion.tower.weights=FILE",
    "scorer_weight": "scorers.NAME.importance=2",
    "webui": "generator=webui, or nothing: this program draws by itself",
    "webui_urls": "generator=webui generator.address=http://127.0.0.1:7860",
    # supermerger, mergers of block weights, diffusers
    "base_model": "model_a=FILE",
    "model": "model_a=FILE and model_b=FILE",
    "models": "model_a=FILE and model_b=FILE",
    "payload": "payloads=NAME",
    "scorer": "scorers=laion,clip",
    "mode": "method=weighted_sum",
    "num_inference_steps": "payloads.NAME.steps=30",
    "guidance_scale": "payloads.NAME.cfg_scale=7",
    "num_images": "payloads.NAME.batch_size=2",
    "output": "name=NAME; bayes-merger merge NAME --out FILE writes what was found",
    "out": "name=NAME; bayes-merger merge NAME --out FILE writes what was found",
    "precision": "dtype=fp16",
    "checkpoint": "model_a=FILE",
    "dry_run": "bayes-merger plan, with the same settings",
    "iterations": "n_iters=70",
    "max_trials": "n_iters=70",
    "output_dir": "runs=FOLDER",
    "resume": "bayes-merger resume NAME",
    "study_name": "name=NAME",
    "threads": "OMP_NUM_THREADS=2 before the command",
    "vae_path": "vae=FILE",
    "strength": "space.frozen.strength=1.5, or saliency.takes=winner; without them a run with saliency= searches it",
    "trials": "n_iters=70",
    "n_trials": "n_iters=70",
}
"""Foreign name -> what to write instead."""

_WEIGHT = re.compile(r"alpha|beta|(base|block_\d+)_\w+|(BASE|TE|M00|(IN|OUT)\d\d)(-\w+)?(\.\w+)?")


def way_out(name: str, known: Iterable[str]) -> str:
    """What somebody meant who typed a setting that does not exist.

    Args:
        name: as typed.
        known: the full names of all settings.
    """
    known = [one for one in known if "._" not in one]  # our own notes
    bare = name.lower().replace("-", "_")
    table, _, inside = bare.partition(".")
    if called := CALLED.get(bare) or (inside not in known and CALLED.get(table)):
        return f"here it is  {called}"
    if _WEIGHT.fullmatch(name):
        return (
            "a run searches the weights; space.frozen.IN00=0.5 fixes one, anchors=GRAD_V tries yours first, and "
            "bayes-merger merge takes them as they are"
        )
    if full := [one for one in known if one.rpartition(".")[2] == bare and one != name]:
        return f"did you mean {' or '.join(full)}?"
    if is_field(bare) and not difflib.get_close_matches(bare, known, n=1, cutoff=0.85):  # n_iter is rather n_iters
        return f"a payload has it: payloads.NAME.{bare}=..., or in its file payloads/NAME.yaml"
    return nearest(name, known)
