"""What the API answers, as types: the code is checked against them, and the OpenAPI document is made from them."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Weights = dict[str, dict[str, float]]
"""Weight -> block -> number."""


State = Literal["running", "waiting", "pausing", "paused", "stopping", "done", "unfinished", "unreadable"]
"""Of a study and its run."""


class Budget(TypedDict):
    """How many trials are finished, and how many there will be; null: as many as somebody asks for."""

    finished: int
    budget: int | None


class Points(TypedDict):
    """A trial and its points."""

    trial: int | None
    value: float


class Line(TypedDict):
    """A study in a line."""

    name: str
    state: State
    trials: Budget
    best: Points | None
    verdict: str
    last: str | None
    size: int
    method: str
    optimiser: str
    wrong: str
    thumbnail: str | None


class Studies(TypedDict):
    """All studies, the one touched last first."""

    version: str
    studies: list[Line]


class Counts(TypedDict):
    """How many trials have ended, how, and how many there will be."""

    finished: int
    failed: int
    pruned: int
    budget: int | None


class Belief(TypedDict):
    """What all trials together say of one: its score, and the posterior mean and standard deviation."""

    trial: int
    value: float
    mean: float
    sd: float


class Trial(TypedDict):
    """A trial: its merge, what it got, why it failed, what the model believes of it."""

    trial: int
    state: Literal["complete", "fail", "pruned", "running", "waiting"]
    phase: str
    value: float | None
    values: NotRequired[list[float]]
    scores: dict[str, float]
    weights: Weights
    mean: NotRequired[float]
    sd: NotRequired[float]
    seconds: NotRequired[float]
    times: NotRequired[dict[str, float]]
    pictures: NotRequired[int]
    reason: NotRequired[str]
    until: NotRequired[float]


class Best(TypedDict):
    """The best merge."""

    trial: int
    value: float | None
    values: NotRequired[list[float]]
    scores: dict[str, float]
    weights: Weights
    mean: NotRequired[float]
    sd: NotRequired[float]
    images: list[str]


class Verdict(TypedDict):
    """The best merge against the best of the models it was made from."""

    text: str
    better: bool | None
    parent: str
    lead: float
    standard_errors: float | None


class Summary(TypedDict):
    """A study: how far it is, its best merge, the verdict; what `bayes-merger show NAME --json` prints."""

    name: str
    trials: Counts
    state: State
    stopped: str | None
    left_out: str | None
    method: str | None
    optimiser: str
    models: dict[str, dict[str, Any]]
    idle: list[str]
    best: Best | None
    best_observed: Belief | None
    best_posterior_mean: Belief | None
    noise: float | None
    final: dict[str, Any] | None
    verdict: Verdict | None
    holdouts: list[dict[str, Any]]
    objectives: NotRequired[list[str]]
    front: NotRequired[list[dict[str, Any]]]


class Report(TypedDict):
    """The parts of a study's report as HTML, and what its run does now."""

    version: str
    running: bool
    drawing: list[int]
    waiting: int
    newest: str
    parts: dict[str, str]
    rows: dict[str, str]
    trials: Counts


class Shown(TypedDict):
    """A picture of a trial: of which payload, its number there, where it is, and what each scorer gave it."""

    payload: str
    index: int
    seed: int | None
    address: str
    scores: dict[str, float]


class Pasted(TypedDict):
    """The weights in a form that other programs take."""

    label: str
    text: str


class Numbers(TypedDict):
    """A merge's weights, and the same as people paste them."""

    weights: Weights
    formats: list[Pasted]


class Lent(TypedDict):
    """A merge to draw; `trial` is null when there is none now: over, or others have the last ones."""

    trial: int | None
    weights: Weights
    recipe: dict[str, Any] | None
    command: str | None
    until: float | None
    done: int
    budget: int | None
    over: bool


class Told(TypedDict):
    """What has become of a trial: the number it stands under, and how far the study is."""

    trial: int
    done: int
    budget: int | None
    over: bool
    best: Points | None


class Rating(TypedDict):
    """A rating that is valid: of which picture, by whom, when; `prefer` compares it with another one's."""

    id: str
    kind: Literal["score", "repeat", "void", "later", "confirm", "prefer"]
    candidate: str
    payload: str
    index: int
    score: float | None
    seed: int | None
    ms: int | None
    rater: str
    time: str
    other: str | None


class Picture(TypedDict):
    """A picture to be rated; nothing tells which merge it is of."""

    id: str
    payload: str
    prompt: str
    width: int
    height: int
    score: float | None
    best: NotRequired[str | None]


class Asked(TypedDict):
    """What is rated and confirmed together."""

    id: str
    unit: Literal["picture", "trial"]
    score: float | None
    later: bool
    pictures: list[Picture]


class Pair(TypedDict):
    """Two pictures of a play-off."""

    id: str
    left: Picture
    right: Picture


class PlayOff(TypedDict):
    """How far a play-off is, and the first pairs that are left."""

    over: bool
    left: int
    total: int
    pairs: list[Pair]


class Sitting(TypedDict):
    """What there is to rate, and how far the study is."""

    version: str
    done: int
    total: int
    waiting: int
    rated: int
    pictures: int
    running: bool
    over: bool
    seconds: float | None
    left: float | None
    sd: float | None
    trials: list[Asked]
    playoff: PlayOff | None
    undone: NotRequired[str | None]
