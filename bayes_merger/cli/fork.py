"""``fork``: a new study that takes over what compares from another one."""

from __future__ import annotations

from collections.abc import Sequence

from bayes_merger.cli.arguments import as_settings, split_flag, split_off
from bayes_merger.cli.notifying import notified
from bayes_merger.cli.run import name_of
from bayes_merger.cli.seat import seated
from bayes_merger.run.turns import QUEUED

HELP = """\
bayes-merger fork NAME NEW [SETTING=VALUE ...]

  bayes-merger fork A-B A-B-gp optimiser=gp n_iters=40
  bayes-merger fork A-B narrow 'space.ranges.OUT09-OUT11=[0.2,0.4]' space.frozen.IN00=0.5

Starts the study NEW with NAME's settings, changed as you say, and takes over the finished trials whose merges lie in
its space, without drawing them again: they are its start design. It goes on from there: n_iters trials that the
optimiser chooses, after what init_points asks for beyond those taken over. The pictures stay where they are.
Models, method, payloads and scorers must be NAME's, or the scores would not compare.
"""


def fork(arguments: Sequence[str]) -> None:
    """Start a new study from an old one.

    Raises:
        ConfigError: no such study, a setting that makes no sense, or scores that would not be comparable.
        CheckpointError: a model file that cannot be used.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP, end="")
        return
    way_out = "fork: takes the study and the new one's name, like  bayes-merger fork NAME NEW optimiser=gp"
    queued, words = split_flag(QUEUED, as_settings(arguments))
    name, rest = name_of(words, way_out)
    rest = [word.removeprefix("name=") for word in rest]
    new, overrides = name_of(rest, f"fork: the new study has no name; give it like  bayes-merger fork {name} NEW")
    from bayes_merger import session

    seating, overrides = seated(overrides)
    reporting, overrides = notified(overrides)
    runs = split_off("runs", overrides)[0] or "runs"
    session.fork(name, new, overrides, runs=runs, reporting=reporting, seating=seating, queued=queued)
