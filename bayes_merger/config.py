"""The schema of a run, and where configuration files are looked for.

Plain dataclasses: Hydra fills them (``bayes_merger.compose``), everybody else just reads them.
Defaults live in ``conf/``; the ones here only state the type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_TRIALS = 1_000_000
"""A budget above is a mistake."""

MISSING = "???"  # OmegaConf's mark for a value that must be given


@dataclass
class GeneratorConfig:
    """How pictures are drawn.

    Attributes:
        program: ``diffusers`` draws in this process; ``webui`` or ``comfyui``: the user's own; ``outside``: whoever
            asks and tells.
        address: of the web UI.
        workflow: file of the graph that ComfyUI draws with; ``None`` is a plain one.
        models_folder: that the web UI reads models from, as seen from here.
        timeout: seconds that one answer of the web UI may take.
        config: a diffusers folder: the settings of a model of unusual size, and the weights of parts that model A
            lacks; ``None`` is the official one of its architecture.
        text_encoder_3: file or folder of a T5, for SD3 and Flux models without one.
        offload: ``text_encoders``, which are then on the GPU only while prompts are embedded; ``None``: those that no
            searched number changes.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto``, ``fp32``, ``fp16``, ``bf16``: what the live model computes in.
        attention: kernels of attention: ``auto``, ``flash``, ``efficient``, ``cudnn``, ``math``.
        compile: the network is compiled, once per study.
        max_batch: most pictures drawn at once.
        prediction_type: ``epsilon`` or ``v_prediction``; ``None`` lets the checkpoint say.
    """

    program: str = "diffusers"
    address: str | None = None
    workflow: str | None = None
    models_folder: str | None = None
    timeout: float = 600.0
    config: str | None = None
    text_encoder_3: str | None = None
    offload: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    compile: bool = False
    max_batch: int = 4
    prediction_type: str | None = None


@dataclass
class FinalConfig:
    """What happens after the last trial.

    Attributes:
        rescore: how many of the best trials are drawn again on fresh seeds to choose the winner; 0: the best posterior
            mean.
        images: fresh pictures per payload for each of them, and for each row of the closing table; ``None``: 4, or more
            of few payloads, until there are 8 in all; 0 skips both.
        predicted: the last trial of the search is the merge that is predicted to be the best; it takes part.
        save: write the winner to ``best.safetensors``; of several objectives, the one with the best weighted sum.
    """

    rescore: int = 5
    images: int | None = 4
    predicted: bool = False
    save: bool = True


@dataclass
class PruningConfig:
    """When a merge is given up before all its pictures are drawn.

    Attributes:
        test: ``off``, or ``wilcoxon``: when its pictures so far are clearly worse than the best merge's.
        p: how clearly: the test's p-value must be below this.
        first: no test before so many pictures.
    """

    test: str = "off"
    p: float = 0.05
    first: int = 4


@dataclass
class ScoringConfig:
    """How scores become one number, see :mod:`bayes_merger.scoring.combination`; and how a person rates.

    Attributes:
        mean: of the scorers, in each picture: ``arithmetic``, ``geometric`` or ``harmonic``.
        standardise: put every scorer on a scale that the start design fixes: 5 points are its mean there, a point is
            its standard deviation.
        payloads: scorer -> the payloads that it judges, or payload -> its share there; others judge all alike.
        penalties: scorer -> the points that it takes off a picture to which it gives none; it is in no mean then.
        assist: a model of the rater answers where it is surer than one rating; only other pictures are asked.
        page: rate in a page of the browser while the run draws on; otherwise in the terminal, trial by trial.
        ahead: draw nothing more while so many trials wait for ratings.
        unit: ``picture``: each gets a score; ``trial``: all of a merge get one together.
        shuffle: show the pictures of two merges mixed, so that one does not colour how the next is seen.
        repeats: one in so many pictures is asked again, hidden among the others, to measure the rater's own noise; 0:
            none.
        playoff: at the end so many of the best merges are compared in pairs, and the champion is the best merge; 0: no
            play-off.
    """

    mean: str = "arithmetic"
    standardise: bool = False
    payloads: dict[str, Any] = field(default_factory=dict)
    penalties: dict[str, float] = field(default_factory=dict)
    assist: bool = False
    page: bool = False
    ahead: int = 3
    unit: str = "picture"
    shuffle: bool = False
    repeats: int = 20
    playoff: int = 5


@dataclass
class RunConfig:
    """Everything that defines one run; see ``conf/config.yaml`` for what each setting means.

    ``models`` are the further models by name (d, e, f, ...); the command line's ``model_d=FILE`` is ``models.d=FILE``.
    """

    model_a: str = MISSING
    model_b: str = MISSING
    model_c: str | None = None
    models: dict[str, Any] = field(default_factory=dict)
    models_dir: str | None = None
    method: str = "weighted_sum"
    dtype: str = "auto"
    vae: str = "a"
    elements: list[str] = field(default_factory=list)
    compat: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    blocks: dict[str, Any] = field(default_factory=dict)
    channels: str = "equal"
    clip: str | None = None
    saliency: dict[str, Any] = field(default_factory=dict)
    act: dict[str, Any] = field(default_factory=dict)
    rebasin: dict[str, Any] = field(default_factory=dict)
    adjust: Any = None
    recipe: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    runs: str = "runs"
    storage: str | None = None
    workers: int = 1
    seed: int = 0
    init_points: int = 10
    anchors: list[Any] = field(default_factory=list)
    design: str = "blocks"
    n_iters: int = 70
    images_budget: int | None = None
    images_per_prompt: int | None = None
    time_limit: Any = None
    patience: int | None = None
    objectives: list[str] = field(default_factory=list)
    wildcards: str | None = None
    styles: str | None = None
    loras: str | None = None
    embeddings: str | None = None
    images: str = "all"
    preview: bool = False
    space: dict[str, Any] = field(default_factory=dict)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    final: FinalConfig = field(default_factory=FinalConfig)
    optimiser: dict[str, Any] = field(default_factory=dict)
    payloads: dict[str, Any] = field(default_factory=dict)
    scorers: dict[str, Any] = field(default_factory=dict)


CHANGEABLE = ("n_iters", "images_budget", "time_limit", "patience", "pruning", "workers", "images", "model_a",
              "model_b", "model_c", "models", "models_dir", "recipe.models", "runs", "final", "generator.device",
              "generator.max_batch", "generator.config", "generator.text_encoder_3",
              "generator.offload", "generator.address", "generator.models_folder", "generator.timeout",
              "generator.workflow", "preview", "scoring.page", "scoring.ahead", "scoring.shuffle", "scoring.repeats",
              "scoring.playoff", "wildcards", "loras", "embeddings")  # fmt: skip
"""The settings that may change when a study goes on."""


LOCAL = ("model_a", "model_b", "model_c", "models", "models_dir", "recipe.models", "generator.device",
         "generator.max_batch", "generator.config", "generator.text_encoder_3", "generator.offload",
         "generator.address", "generator.models_folder", "generator.timeout", "generator.workflow", "wildcards",
         "loras", "embeddings")  # fmt: skip
"""The settings that may differ between the machines that work on a study."""

FILES = ("vae", "saliency.a", "saliency.b", "act")
"""The settings that may name a file, which may lie elsewhere when a study goes on, if it is the same."""


def data_root() -> Path:
    """Folder that holds ``conf/``, ``payloads/`` and ``scorers/``: the checkout, else the copy inside the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "config.yaml").is_file():
        return checkout
    return package / "_data"
