"""The front door for Python: ``bayes_merger.open_checkpoint``, ``merge``, ``save_merge`` and ``open_study``.

These are the few functions of a notebook; everything they are made of can be used as well (see ARCHITECTURE.md).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import ConfigError, nearest
from bayes_merger.run.attributes import CONFIG, PAYLOADS, RECIPE, SCORERS, WEIGHTS

if TYPE_CHECKING:
    import optuna
    from torch import Tensor

    from bayes_merger.merging.recipe.recipe import MergeRecipe

__all__ = ["AskTellStudy", "Suggestion", "merge", "open_checkpoint", "open_study", "save_merge"]


def merge(*source: str, trial: int | None = None, runs: str | Path = "runs", **settings: Any) -> dict[str, Tensor]:
    """The merged model as a state dict: single-file key to tensor, on the CPU.

    For example::

        merge(model_a="A.safetensors", model_b="B.safetensors", alpha=0.3, **{"OUT03-OUT05.alpha": 0.6})
        merge("A-B")                    # the best merge of a study
        merge("A-B", trial=17)
        merge("recipe.json")

    Args:
        source: the name of a study or of a recipe's file; none: the settings are the merge.
        trial: of the study, instead of its best.
        runs: the folder of all studies.
        settings: those of ``bayes-merger merge``; a list of numbers is a weight string.

    Raises:
        ConfigError: settings that make no sense, or no such study.
        CheckpointError: a model file that cannot be used.
    """
    from bayes_merger.merges.resolve import recipe_and_models
    from bayes_merger.merging.engine.merge import merge as merged
    from bayes_merger.run.rebasin import verify_all

    recipe, models = recipe_and_models(_words(source, settings), trial=trial, runs=runs)
    try:
        verify_all(models.values())
        return dict(merged(recipe, models))
    finally:
        for model in models.values():
            model.close()  # tensors that are mapped from a file stay valid


def save_merge(
    out: str | Path,
    *source: str,
    trial: int | None = None,
    runs: str | Path = "runs",
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Write the merged model as a safetensors file that other programs load, its recipe inside.

    For example::

        save_merge("mix.safetensors", model_a="A.safetensors", model_b="B.safetensors", alpha=0.3)

    Args:
        out: the file to write.
        source: as for :func:`merge`.
        trial: as for :func:`merge`.
        runs: as for :func:`merge`.
        overwrite: whether a file that is already there may be replaced; a model of the merge never is.
        settings: as for :func:`merge`.

    Returns:
        The file.

    Raises:
        ConfigError: as :func:`merge`.
        CheckpointError: as :func:`merge`; or the file cannot be written.
    """
    from bayes_merger.merges.resolve import recipe_and_models
    from bayes_merger.merging.export.single_file import save_merge as save
    from bayes_merger.run.rebasin import verify_all

    recipe, models = recipe_and_models(_words(source, settings), trial=trial, runs=runs)
    try:
        verify_all(models.values())
        save(recipe, models, out, replace=overwrite)
    finally:
        for model in models.values():
            model.close()
    return Path(out)


def _words(source: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Settings as they would be typed."""

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return [*source, *(f"{key}={text(value)}" for key, value in settings.items())]


@dataclass(frozen=True)
class Suggestion:
    """A merge to be scored.

    Attributes:
        number: of the trial.
        weights: weight name -> block -> number, for every block: ``{"alpha": {"BASE": 0.3, "IN00": 0.1, ...}}``.
        score: its score; None while it runs.
        recipe: the whole merge; None where the study knows no models.
    """

    number: int
    weights: Mapping[str, Mapping[str, float]]
    score: float | None = None
    recipe: MergeRecipe | None = field(default=None, repr=False)
    _trial: Any = field(default=None, repr=False, compare=False)


class AskTellStudy:
    """A study whose merges the caller draws and scores; a context manager.

    It survives the process: opened again under its name, it suggests what would have come next. Several processes may
    have it open at once; no two get the same merge.
    """

    def __init__(self, study: optuna.study.Study, space: Any) -> None:
        from bayes_merger.run.lending import last_of
        from bayes_merger.search.study.workers import Worker

        self.study = study
        self._space = space
        self._worker = Worker(study, space, last=last_of(study))

    def __enter__(self) -> AskTellStudy:
        self._worker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.__exit__(kind, error, trace)

    def ask(self) -> Suggestion:
        """The next merge to score: the start design first, then what the optimiser chooses."""
        from bayes_merger.run.lending import recipe_if_known
        from bayes_merger.run.outside import budget_of

        budget = budget_of(self.study)
        trial = self._worker.claim(sys.maxsize if budget is None else budget)
        if trial is None:
            more = f"bayes-merger resume {self.study.study_name} n_iters=MORE"
            over = budget is not None and self._worker.done >= budget
            told = f"all {budget} trials are told; for more  {more}" if over else "nothing to draw now; try again"
            raise ConfigError(f"study '{self.study.study_name}': {told}")
        return Suggestion(
            trial.number, trial.user_attrs[WEIGHTS], recipe=recipe_if_known(self.study, trial), _trial=trial
        )

    def tell(self, suggestion: Suggestion, score: float) -> None:
        """What a merge got; greater is better.

        Raises:
            TrialFailed: the score is not a finite number; nothing is stored.
        """
        from bayes_merger.run.lending import conclude

        conclude(self.study, self._worker.tell(suggestion._trial, score).done)

    def fail(self, suggestion: Suggestion, reason: str) -> None:
        """The merge cannot be scored, for this reason; the optimiser goes elsewhere."""
        self._worker.fail(suggestion._trial, reason)

    @property
    def trials(self) -> list[Suggestion]:
        """Every merge that has a score, in order."""
        from bayes_merger.run.record import complete_trials

        return [Suggestion(t.number, t.user_attrs[WEIGHTS], t.value) for t in complete_trials(self.study)]

    @property
    def best(self) -> Suggestion | None:
        """The merge with the best score so far."""
        return max(self.trials, key=lambda trial: trial.score or 0.0, default=None)


def open_study(
    name: str,
    *,
    runs: str | Path = "runs",
    storage: str = "",
    architecture: str = "sd1",
    method: str = "weighted_sum",
    frozen: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
    optimiser: str | Callable[..., Any] = "structured",
    seed: int = 0,
    init_points: int = 10,
) -> AskTellStudy:
    """A study to ask and tell: a new one, or one that exists with all its scores.

    One that ``bayes-merger run ... generator=outside`` has begun has its models, space, optimiser and budget of its
    own: it is opened by its name alone.

    For example::

        with open_study("mine", frozen={"IN00-IN03": 0.5}) as study:
            for _ in range(60):
                suggestion = study.ask()
                study.tell(suggestion, my_score(suggestion.weights))

    Args:
        name: of the study, also its folder's.
        runs: the folder of all studies.
        storage: the address of a database, like ``postgresql://me@db/merges``; by default a file in the folder.
        architecture: whose blocks there are: sd1, sd2, sdxl, sd3, sd3-large, flux.
        method: whose weights there are.
        frozen: name -> number, as in ``space.frozen``.
        ranges: name -> ``[low, high]``, as in ``space.ranges``.
        groups: lists of names that share one number, as in ``space.groups``.
        optimiser: one of ours by name, or an Optuna sampler's class, or a function as in
            :func:`bayes_merger.search.samplers.make_sampler`.
        seed: of the search.
        init_points: rows of the start design: pure A, pure B, the even mix, and points between.

    Raises:
        ConfigError: something that makes no sense, or the study exists and differs.
    """
    from bayes_merger.merging.method import method_spec
    from bayes_merger.outside import begun_outside
    from bayes_merger.run.folder import RunFolder, check_name
    from bayes_merger.run.idle import space_of
    from bayes_merger.search import samplers
    from bayes_merger.search.space.design import design
    from bayes_merger.search.space.space import build_space
    from bayes_merger.search.study import study as studies

    blocks = _blocks(architecture)
    spec = method_spec(method)
    bounds = {weight: (about.low, about.high) for weight, about in spec.weights.items()}
    space = build_space(blocks, bounds, frozen=frozen, ranges=ranges, groups=groups)
    factory = _factory(optimiser)
    folder = RunFolder(Path(runs) / check_name(name), storage)
    if begun := begun_outside(folder):
        own = {"architecture": architecture, "method": method, "frozen": frozen, "ranges": ranges, "groups": groups,
               "optimiser": optimiser, "seed": seed, "init_points": init_points}  # fmt: skip
        for setting, value in own.items():
            if value != (open_study.__kwdefaults__ or {})[setting]:
                raise ConfigError(f"{setting}: study '{name}' was begun by a run and has its own; leave it out")
        return AskTellStudy(begun, space_of(begun))
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.point()
    study = studies.open_study(
        studies.open_storage(folder.where),
        name,
        samplers.make_sampler(factory, space.distributions(), seed),
        space=space,
        fingerprint={"method": spec.name, "space": space.to_json()},
        design=design(space, init_points, seed),
        attributes=_attributes(spec.name, architecture, factory, seed, init_points),
    )
    return AskTellStudy(study, space)


def _blocks(architecture: str) -> tuple[str, ...]:
    """The blocks of an architecture.

    Raises:
        ConfigError: no architecture has that name.
    """
    from bayes_merger.checkpoints.architectures import ARCHITECTURES

    if architecture not in ARCHITECTURES:
        raise ConfigError(f"architecture: '{architecture}' is unknown; {nearest(architecture, ARCHITECTURES)}")
    return ARCHITECTURES[architecture].blocks


def _attributes(
    method: str, architecture: str, factory: Callable[..., Any], seed: int, init_points: int
) -> dict[str, Any]:
    """What the study stores, in the form of a run without models, payloads and scorers."""
    target = factory.func if isinstance(factory, partial) else factory
    return {
        CONFIG: {"method": method, "init_points": init_points, "n_iters": 0, "seed": seed,
                   "optimiser": {"_target_": f"{target.__module__}.{target.__qualname__}"}},
        RECIPE: {"method": method, "models": {}, "architecture": architecture, "dtype": "auto", "vae": "a"},
        PAYLOADS: [],
        SCORERS: {},
    }  # fmt: skip


def _factory(optimiser: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function that makes an optimiser.

    Raises:
        ConfigError: no optimiser of ours has that name.
    """
    from bayes_merger.search import samplers

    if not isinstance(optimiser, str):
        return optimiser
    if optimiser not in samplers.NAMES:
        raise ConfigError(f"optimiser: no '{optimiser}'; {nearest(optimiser, samplers.NAMES)}")
    factory: Callable[..., Any] = getattr(samplers, optimiser)
    return factory
