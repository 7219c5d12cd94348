"""Studies from Python: ask for a merge and tell its score; or a space and a sampler for a study of Optuna's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bayes_merger.errors import ConfigError, nearest
from bayes_merger.run.attributes import CONFIG, PAYLOADS, RECIPE, SCORERS, WEIGHTS
from bayes_merger.run.folder import RunFolder, check_name, find_study, load
from bayes_merger.search.space.building import build_space
from bayes_merger.search.space.space import SearchSpace

if TYPE_CHECKING:
    import optuna

    from bayes_merger.merging.recipe.recipe import MergeRecipe


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

    Attributes:
        study: the same as a plain Optuna study, for Optuna's own plots and tools.
        space: what is searched.
    """

    def __init__(self, study: optuna.study.Study, space: SearchSpace) -> None:
        from bayes_merger.run.lending import last_of
        from bayes_merger.search.study.workers import Worker

        self.study = study
        self.space = space
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


def search_space(
    architecture: str = "sd1",
    method: str = "weighted_sum",
    *,
    frozen: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    groups: Sequence[Sequence[str]] | None = None,
) -> SearchSpace:
    """The numbers of a merge that are searched.

    ``space.distributions()`` is what Optuna's ``ask`` takes, and ``space.assemble(trial.params)`` makes the weights of
    every block of it.

    Args:
        architecture: whose blocks there are: sd1, sd2, sdxl, sd3, sd3-large, flux.
        method: whose weights there are.
        frozen: name -> number, as in ``space.frozen``.
        ranges: name -> ``[low, high]``, as in ``space.ranges``.
        groups: lists of names that share one number, as in ``space.groups``.

    Raises:
        ConfigError: an architecture, a method or a name that does not exist.
    """
    from bayes_merger.checkpoints.architectures import ARCHITECTURES
    from bayes_merger.merging.method import method_spec

    if architecture not in ARCHITECTURES:
        raise ConfigError(f"architecture: '{architecture}' is unknown; {nearest(architecture, ARCHITECTURES)}")
    bounds = {weight: (about.low, about.high) for weight, about in method_spec(method).weights.items()}
    return build_space(ARCHITECTURES[architecture].blocks, bounds, frozen=frozen, ranges=ranges, groups=groups)


def sampler(
    space: SearchSpace, optimiser: str | Callable[..., Any] = "structured", *, seed: int = 0
) -> optuna.samplers.BaseSampler:
    """One of our optimisers for any study of Optuna's that maximises.

    For example::

        study = optuna.create_study(direction="maximize", sampler=sampler(space))

    Args:
        space: what is searched.
        optimiser: one of ours by name, or an Optuna sampler's class, or a function as in
            :func:`bayes_merger.search.samplers.make_sampler`.
        seed: of the search.

    Raises:
        ConfigError: no optimiser has that name, or it cannot be made.
    """
    from bayes_merger.search import samplers

    return samplers.make_sampler(_factory(optimiser), space.distributions(), seed)


def load_study(name: str, runs: str | Path = "runs") -> optuna.study.Study:
    """The study of a run as a plain Optuna study, to look at: nothing that is done to it reaches the disk.

    Args:
        name: of the study, or how it alone begins; ``-`` is the newest.
        runs: the folder of all studies.

    Raises:
        ConfigError: there is none, or several names begin so.
        StorageError: it cannot be read.
    """
    return load(find_study(Path(runs), name))


def open_study(
    name: str,
    *,
    runs: str | Path = "runs",
    storage: str = "",
    architecture: str = "sd1",
    method: str = "weighted_sum",
    optimiser: str | Callable[..., Any] = "structured",
    seed: int = 0,
    init_points: int = 10,
    space: SearchSpace | None = None,
    **rules: Any,
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
        architecture: as for :func:`search_space`.
        method: as for :func:`search_space`.
        optimiser: as for :func:`sampler`.
        seed: of the search.
        init_points: rows of the start design: pure A, pure B, the even mix, and points between.
        space: what is searched; by default what :func:`search_space` makes of architecture, method and rules.
        rules: ``frozen``, ``ranges`` and ``groups``, as for :func:`search_space`.

    Raises:
        ConfigError: something that makes no sense, or the study exists and differs.
    """
    from bayes_merger.asking import begun_outside
    from bayes_merger.run.idle import space_of
    from bayes_merger.search.space.design import design
    from bayes_merger.search.study import study as studies

    folder = RunFolder(Path(runs) / check_name(name), storage)
    if begun := begun_outside(folder):
        _check_bare(name, {"architecture": architecture, "method": method, "optimiser": optimiser, "seed": seed,
                           "init_points": init_points, "space": space, **rules})  # fmt: skip
        return AskTellStudy(begun, space_of(begun))
    space = space or search_space(architecture, method, **rules)
    chosen = sampler(space, optimiser, seed=seed)
    folder.make()
    folder.point()
    study = studies.open_study(
        studies.open_storage(folder.where),
        name,
        chosen,
        space=space,
        fingerprint={"method": method, "space": space.to_json()},
        design=design(space, init_points, seed),
        attributes=_attributes(method, architecture, _factory(optimiser), seed, init_points),
    )
    return AskTellStudy(study, space)


def _check_bare(name: str, given: Mapping[str, Any]) -> None:
    """Whether nothing was given of what a study that a run has begun has of its own.

    Raises:
        ConfigError: something was.
    """
    usual = open_study.__kwdefaults__ or {}
    for setting, value in given.items():
        if value is not None and value != usual.get(setting):
            raise ConfigError(f"{setting}: study '{name}' was begun by a run and has its own; leave it out")


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
