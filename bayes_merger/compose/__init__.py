"""Settings in, plain data out: the only room that knows Hydra or OmegaConf.

Hydra composes what the user has: our `conf/`, the working folder's, and what is typed. What others send is never
composed: payloads are read by :mod:`bayes_merger.imaging.payload.files`, the settings of a study are plain data, and
what they name to be built is looked up among what our files and the user's own name (``building``). So text is
resolved once, where the user wrote it, and ``${`` means nothing anywhere else.
"""

from __future__ import annotations

from bayes_merger.compose.building import build
from bayes_merger.compose.composing import changed, compose_run, followers, settings_help, settings_text, validate
from bayes_merger.compose.scorers import build_scorers
from bayes_merger.compose.sources import demo_path
from bayes_merger.compose.typed import PATHS, in_full, is_of, swept_values
from bayes_merger.run.choices import GROUPS, choices

__all__ = [
    "GROUPS",
    "PATHS",
    "build",
    "build_scorers",
    "changed",
    "choices",
    "compose_run",
    "demo_path",
    "followers",
    "in_full",
    "is_of",
    "settings_help",
    "settings_text",
    "swept_values",
    "validate",
]
