"""``rescore``: a study's pictures, judged again."""

from __future__ import annotations

from collections.abc import Sequence

from bayes_merger.cli.arguments import as_settings, split_off
from bayes_merger.cli.run import name_of
from bayes_merger.cli.terminal import watching
from bayes_merger.errors import ConfigError

HELP = """\
bayes-merger rescore NAME [NEW] [SETTING=VALUE ...]

  bayes-merger rescore A-B scorers=clip
  bayes-merger rescore A-B scorers=laion,clip scorers.clip.importance=2 scoring.mean=geometric
  bayes-merger rescore A-B corrected                  with the ratings by hand as they are now

Starts the study NEW (NAME@2, where you do not say) with NAME's trials, their pictures judged as you say, and its best
merge; nothing is drawn. Raw scores of scorers that stay are taken over, and so are ratings by hand. Killed or paused,
the same command goes on. bayes-merger resume NEW n_iters=20 searches on from there.
"""


def rescore(arguments: Sequence[str]) -> None:
    """Judge the pictures of a study again.

    Raises:
        ConfigError: no such study, a setting that would need other pictures, or no trial can be judged.
        CheckpointError: a model file that cannot be used.
    """
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return
    way_out = "rescore: takes the study and what changes, like  bayes-merger rescore NAME scorers=clip"
    name, rest = name_of(as_settings(arguments), way_out)
    names = [word for word in rest if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"rescore: takes the study and the new one's name, not '{names[1]}' too")
    runs, overrides = split_off("runs", [word for word in rest if "=" in word])
    from bayes_merger import rescoring

    rescoring.rescore(name, names[0] if names else "", overrides, runs=runs or "runs", reporting=watching)
