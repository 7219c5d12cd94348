"""The command line: each command is a function of its name in a module of this room."""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from bayes_merger import __version__
from bayes_merger.cli.arguments import without_quotes
from bayes_merger.errors import BayesMergerError, ConfigError, Interrupted, Paused, StorageError, nearest, trouble

HELP = """\
bayes-merger finds the best merge of Stable Diffusion checkpoints instead of guessing it.

  bayes-merger run experiment=demo
      a real run on the small models that come with the package (minutes on a CPU)
  bayes-merger run model_a=A.safetensors model_b=B.safetensors payloads=portrait,street scorers=laion
      search the best merge of two checkpoints; run --help lists the settings
  bayes-merger resume NAME [n_iters=100]
      go on where a study stopped: after Ctrl-C, kill -9, a power cut, or with more trials
  bayes-merger pause NAME, bayes-merger stop NAME [--now]
      hold a run that goes on elsewhere, which resume lets go on; or end it after its trial
  bayes-merger fork NAME NEW [optimiser=gp] [space.frozen.IN00=0.5]
      a new study that takes over what compares from another one, without drawing it again
  bayes-merger worker NAME [--storage postgresql://...]
      help a study that runs already, from this machine or another
  bayes-merger rate NAME
      the page on which you rate what waits for you, by keyboard or on a phone
  bayes-merger serve
      all studies in the browser: each as a page that moves while its run goes on
  bayes-merger show [NAME] [--json]
      all studies; or one: its trials, the best, the weights
  bayes-merger report NAME
      the same with pictures, as one page to look at and to send around
  bayes-merger compare NAME 3 17
      two merges side by side: pictures of the same seeds, what differs, and whether one is better
  bayes-merger history NAME [--blink]
      each new best, in words or as one moving picture
  bayes-merger export NAME FORM
      the best merge for other programs: recipe, weight strings, CSV, ComfyUI, sd-mecha, Optuna
  bayes-merger merge NAME --out best.safetensors
      write the best merge of a study, a recipe's or your own to a file; merge --help tells how
  bayes-merger plan NAME [--keys] [--diff recipe.json]
      say what a merge would do to every tensor, and why
  bayes-merger diff A.safetensors B.safetensors [C.safetensors] [--png heat.png]
      how models differ, block by block, and who is whose fine-tune
  bayes-merger effect model_a=A.safetensors model_b=B.safetensors payloads=portrait [--of elements:OUT05]
      what each block, element or rule does to the pictures, alone: which weights are worth searching
  bayes-merger xy model_a=A.safetensors model_b=B.safetensors payloads=portrait x="OUT05.alpha=0,0.5,1" y="seed=1,2"
      a grid of pictures: weights, rules, models, methods, seeds, prompts along its sides; xy --help lists the axes
  bayes-merger recipe FILE [--json]
      show the recipe inside a merged file; merge FILE --out ... makes it again
  bayes-merger rescore NAME scorers=clip
      judge a study's pictures again with other scorers, importances or means: a new study, without drawing
  bayes-merger score FOLDER --scorers laion,clip
      judge any pictures: a table, or CSV or JSON
  bayes-merger payload draw MODEL payloads=mine
      draw with one model, without a search; payload import PICTURE ... makes payloads of a web UI's pictures
  bayes-merger scorers
      who can judge, and whether the weights are here; scorers fetch NAME gets them, scorers check NAME tries
  bayes-merger models [FOLDER]
      the models of a web UI's folder: name, kind, size, hash; with models_dir=FOLDER they are found by name
  bayes-merger activations MODEL payloads=mine --out A.act.safetensors
      measure which weights a model's pictures come from, for merges that take this into account
  bayes-merger rebasin A B --out B_aligned.safetensors
      B with its neurons in A's order: it draws what it drew, and merges better with A where both were trained apart
  bayes-merger completion bash
      the script that makes TAB complete commands, studies, models and settings; also zsh and fish

Options of all commands: --help, --debug (full tracebacks), --version.
Exit codes: 0 done, 1 failure, 2 bad input, 3 paused waiting for your ratings, 130 interrupted.
"""


COMMANDS = {
    "run": "run",
    "resume": "run",
    "pause": "steer",
    "stop": "steer",
    "fork": "fork",
    "worker": "worker",
    "rate": "rate",
    "serve": "serve",
    "show": "show",
    "report": "report",
    "compare": "compare",
    "history": "history",
    "export": "export",
    "merge": "merge",
    "plan": "plan",
    "diff": "diff",
    "effect": "effect",
    "xy": "xy",
    "recipe": "recipe",
    "payload": "payload",
    "score": "score",
    "rescore": "rescore",
    "scorers": "scorers",
    "models": "models",
    "activations": "activations",
    "rebasin": "rebasin",
    "completion": "completion",
}
"""Command -> the module that has a function of its name; imported when it is called, so that all start quickly."""


RUNS = ("run", "resume", "fork")
GO_ON = "; go on with  bayes-merger resume NAME"
STOPPED = "stopped; bayes-merger show  lists the study if it is begun, and  bayes-merger resume NAME  goes on"


def _on_one_line(text: str) -> str:
    """A message in which names from files can neither break or fill the line nor speak to the terminal."""
    shown = _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 200]} ... {shown[-200:]}"


LONGEST = 1000
"""Characters of a message."""

# Control characters, line ends, and what turns the direction of writing
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def _print_any_name() -> None:
    """Let names of files be printed that are in no encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the process's exit code."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when torch is loaded. Its threads wait for each other by counting, by default for so long that where
        # another program needs a core, a picture that takes seconds takes more than a minute. A thirtieth of that
        # costs a quiet machine nothing that we could measure.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _print_any_name()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if debug:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("bayes_merger").setLevel(logging.DEBUG)
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] in ("-v", "-V", "--version"):
        print(__version__)
        return 0
    name, *rest = map(without_quotes, arguments)
    try:
        if name not in COMMANDS:
            raise ConfigError(f"no command '{name}'; {nearest(name, COMMANDS)}")
        getattr(importlib.import_module(f"bayes_merger.cli.{COMMANDS[name]}"), name)(rest)
    except BayesMergerError as error:
        if debug:
            traceback.print_exc()
        label = "" if isinstance(error, Paused | Interrupted) else "error: "
        print(f"{label}{_on_one_line(str(error)) if label else error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(STOPPED if name in RUNS else "stopped", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; a second complaint would be noise
        return 0
    except Exception as error:  # the boundary of the process: databases, Pillow and the system each say it in their way
        said = None if debug else trouble(error)
        if said is None:
            raise
        print("error: " + _on_one_line(said) + GO_ON * (name in RUNS), file=sys.stderr)
        return StorageError.exit_code
    return 0


def program() -> NoReturn:
    """The command as a process of its own."""
    # A tenth of the time to import torch and diffusers, or to read a study, would go into looking for garbage.
    gc.set_threshold(300_000)
    code = main()
    if "torch" not in sys.modules:  # whose libraries complain about what is left
        gc.freeze()  # nobody needs to look for garbage in what ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said: a further Ctrl-C would print a traceback
    sys.exit(code)
