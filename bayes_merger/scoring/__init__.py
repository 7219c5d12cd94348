"""Images in, numbers out: what judges the pictures of a trial, and how its scores become one number."""

from bayes_merger.scoring.aesthetic import AestheticScorer
from bayes_merger.scoring.clip import ClipScorer, ClipTower
from bayes_merger.scoring.ratings import Ledger, Rating
from bayes_merger.scoring.scorer import (
    Judged,
    Scale,
    Score,
    Scorer,
    check_importance,
    check_scale,
    combine,
    judge,
    picture_points,
    points,
)
from bayes_merger.scoring.terminal import ManualScorer
from bayes_merger.scoring.viewer import Viewer

__all__ = [
    "AestheticScorer",
    "ClipScorer",
    "ClipTower",
    "Judged",
    "Ledger",
    "ManualScorer",
    "Rating",
    "Scale",
    "Score",
    "Scorer",
    "Viewer",
    "check_importance",
    "check_scale",
    "combine",
    "judge",
    "picture_points",
    "points",
]
