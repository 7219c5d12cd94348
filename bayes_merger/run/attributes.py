"""What a study and its trials hold besides numbers: the names of their user attributes, in people's files for good.

Those that the search itself reads and writes are beside it, in :mod:`bayes_merger.search.study`: ``fingerprint``,
``design``, ``phase``, ``row``, ``origin``, ``retry_of``, ``worker``, ``reason``, ``estimate``, ``seconds``,
``stopped``, ``patient_from``, ``forked_from``. ARCHITECTURE.md lists all of them.
"""

from __future__ import annotations

CONFIG = "config"
"""Of a study: the settings of the run, composed."""

RECIPE = "recipe"
"""Of a study: the merge as a recipe without its weights."""

PAYLOADS = "payloads"
"""Of a study: what is drawn, seeds and wildcards resolved."""

FRESH = "fresh"
"""Of a study whose prompts have choices in them: what the final round draws, both parts, resolved."""

SCORERS = "judges"
"""Of a study: scorer -> [importance, scale]."""

STANDARDS = "standards"
"""Of a study whose scores are standardised: scorer -> the raw values of 0 and 10 points, from its start design."""

VERSIONS = "versions"
"""Of a study: the versions of the libraries that draw and score, and the kind of device."""

MOST = "max_batch"
"""Of a study that ran out of memory: the most pictures that have fitted since, which are drawn at once from then on."""

FINAL = "final"
"""Of a study: the final round, once it is over."""

FINAL_IMAGES = "final_images"
"""Of a study: row of the closing table -> where its pictures lie, relative to the run's folder."""

PLAYOFF = "playoff"
"""Of a study by hand: the play-off of its best merges, and its champion."""

WISH = "wish"
"""Of a study in a database: what those who draw it are asked to do, on whatever machine, and the mark of that wish."""

DRAWN = "drawn:"
"""Of a study, before a hash: what one merge got on fresh seeds."""

BELIEVED = "believed"
"""Of a study of some hundred trials: the best posterior mean after so many of them."""

WEIGHTS = "weights"
"""Of a trial: weight name -> block -> number."""

SCORES = "scores"
"""Of a trial: raw scores, one per scorer and picture."""

IMAGES = "images"
"""Of a trial: where its pictures lie, relative to the run's folder."""

TIMES = "times"
"""Of a trial: part (choose, merge, embed, draw, decode, save, score) -> seconds."""

POINTS = "points"
"""Of a trial: the weighted sum, where there are several objectives."""
