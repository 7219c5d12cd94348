"""Images in, numbers out: what judges the pictures of a trial, and how its scores become one number."""

from bayes_merger.scoring.models.aesthetic import AestheticScorer
from bayes_merger.scoring.models.clip import ClipScorer, ClipTower
from bayes_merger.scoring.people.ledger import Ledger, Rating
from bayes_merger.scoring.people.terminal import ManualScorer
from bayes_merger.scoring.people.viewer import Viewer
from bayes_merger.scoring.scorer import (
    ImageToScore,
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

__all__ = [
    "AestheticScorer",
    "ClipScorer",
    "ClipTower",
    "ImageToScore",
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
