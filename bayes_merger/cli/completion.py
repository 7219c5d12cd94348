"""``completion``: the script that makes a shell complete commands, studies, models and settings; and what it asks.

The script asks the program at every TAB, so what it answers with is light, and runs nothing of the working folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bayes_merger.cli.arguments import Parser, split_off
from bayes_merger.config import CHANGEABLE, LOCAL, RunConfig

BASH = r"""
_bayes_merger() {
    local found
    COMPREPLY=()
    while IFS= read -r found; do
        COMPREPLY+=("$found")
        case $found in *[=./]) compopt -o nospace 2>/dev/null ;; esac
    done < <(bayes-merger completion --line "${COMP_LINE:0:COMP_POINT}" --breaks "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -o default -F _bayes_merger bayes-merger
"""

ZSH = r"""
#compdef bayes-merger
_bayes_merger() {
    local -a found open
    found=(${(f)"$(bayes-merger completion --words "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)"})
    open=(${(M)found:#*[=./]})
    found=(${found:#*[=./]})
    compadd -S '' -a open
    compadd -a found
    (( $#open + $#found )) || _files
}
compdef _bayes_merger bayes-merger
"""

FISH = r"""
function __bayes_merger
    set -l found (bayes-merger completion --words (commandline -opc)[2..] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c bayes-merger -f -a '(__bayes_merger)'
"""

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

HELP = """\
bayes-merger completion bash | zsh | fish

Prints what makes TAB complete commands, names of studies and models, settings and their values:

  bash   echo 'eval "$(bayes-merger completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(bayes-merger completion zsh)"' >> ~/.zshrc     after the line with compinit
  fish   bayes-merger completion fish > ~/.config/fish/completions/bayes-merger.fish
"""

STUDIES = ("resume", "pause", "stop", "fork", "worker", "rate", "show", "report", "compare", "history", "export",
           "merge", "plan", "recipe", "rescore")  # fmt: skip
"""The commands that take a study."""

VERBS = {
    "completion": tuple(SHELLS),
    "export": ("recipe", "yaml", "weights", "comfyui", "mecha", "csv", "optuna"),
    "payload": ("import", "check", "draw"),
    "scorers": ("fetch", "check"),
    "activations": ("show", "merge"),
}
"""Command -> the words that it knows."""

LISTS = ("payloads", "scorers", "objectives", "anchors")
"""The settings that are lists of names."""

VALUES = {
    "generator.device": ("auto", "cpu", "cuda", "mps"),
    "generator.dtype": ("auto", "fp16", "bf16", "fp32"),
    "dtype": ("auto", "fp16", "bf16", "fp32", "fp8_e4m3fn", "fp8_e5m2"),
    "images": ("all", "best"),
    "space.idle": ("freeze", "keep"),
}


def completion(arguments: Sequence[str]) -> None:
    """Print a shell's script, or what may stand where the cursor is."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    if arguments[0] == "--words":  # whatever comes after it, options of other commands among it, is data
        _print(candidates(arguments[1:]))
        return
    parser = Parser(prog="bayes-merger completion")
    parser.add_argument("shell", nargs="?", choices=SHELLS, help="whose script")
    parser.add_argument("--line", help="the line up to the cursor")
    parser.add_argument("--breaks", default="", help="characters at which bash divides words")
    options = parser.parse_args(arguments)
    if options.line is None:
        print(SHELLS[options.shell or "bash"].strip())
    else:
        _print(_for_bash(options.line, options.breaks))


def _print(found: Sequence[str]) -> None:
    """One a line; a shell would take an empty line for an answer."""
    for one in found:
        print(one)


def _for_bash(line: str, breaks: str) -> list[str]:
    """What bash puts in the place of what it takes for the last word: quoted, without what stands before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words += lexer
    except ValueError:  # a quotation that is not closed
        return []
    if line[-1:].isspace():
        words.append("")
    typed = words[-1]
    before = max((typed.rfind(mark) for mark in breaks if mark in "=:"), default=-1) + 1
    return [re.sub(r"[^\w@%+=:,./-]", r"\\\g<0>", found[before:]) for found in candidates(words[1:])]


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of these words may become.

    Args:
        words: after the program's name; the last is the one that is being typed.
    """
    command, typed = words[0], words[-1]
    if len(words) == 1:
        from bayes_merger.cli import COMMANDS

        found: Iterable[str] = [*COMMANDS, "--help", "--version"]
    elif "=" in typed:
        found = _values(typed, words)
    else:
        found = [*_names(command, words), *(f"{name}=" for name in _settings(command))]
    return [one for one in dict.fromkeys(found) if one.startswith(typed) and one.isprintable()]


def _names(command: str, words: Sequence[str]) -> list[str]:
    """What a command takes besides settings."""
    given = [word for word in words[1:-1] if "=" not in word and not word.startswith("-")]
    if command in VERBS and (command not in STUDIES or given):
        return list(VERBS[command]) if len(given) == (command in STUDIES) else []
    if command in STUDIES and (not given or command == "compare"):
        from bayes_merger.run.folder import studies

        return [study.name for study in studies(Path(_given("runs", words) or "runs"))]
    return []


def _given(name: str, words: Sequence[str]) -> str:
    """What a setting was given before, as ``--name VALUE`` or ``name=VALUE``."""
    if f"--{name}" in words[:-2]:
        return words[words.index(f"--{name}") + 1]
    return split_off(name, [word.removeprefix("--") for word in words[:-1]])[0]


def _settings(command: str) -> list[str]:
    """The settings that a command takes."""
    if command in ("run", "fork", "effect", "xy"):
        return sorted(_leaves(RunConfig))
    if command in ("resume", "worker"):
        return list(CHANGEABLE if command == "resume" else LOCAL)
    if command == "rescore":
        return [name for name in sorted(_leaves(RunConfig)) if name.partition(".")[0] in ("scorers", "scoring")]
    if command in ("merge", "plan"):
        from bayes_merger.merging.recipe.settings import SETTINGS

        models = [f"model_{name}" for name in "abc"]
        return [*models, "alpha", "beta", "models_dir", "recipe", *(name for name in SETTINGS if name != "options")]
    return ["payloads", "generator.device"] if command in ("payload", "activations") else []


def _leaves(schema: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of a schema, those of its tables too, and their types."""
    found: dict[str, Any] = {}
    for field in fields(schema):
        table = field.default_factory
        if isinstance(table, type) and is_dataclass(table):
            found |= _leaves(table, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = field.type
    return found


def _values(typed: str, words: Sequence[str]) -> list[str]:
    """``name=value`` for what a setting may be; of a list, what its last name may be."""
    name, _, value = typed.partition("=")
    key = name.lstrip("-+").replace("-", "_")
    before = value[: value.rfind(",") + 1] if key in LISTS else ""
    taken = before.split(",")
    return [f"{name}={before}{one}" for one in _known_values(key, value, words) if one not in taken]


def _known_values(key: str, value: str, words: Sequence[str]) -> Iterable[str]:
    from bayes_merger.run.choices import GROUPS, choices

    if key in GROUPS:
        return choices(key)
    if key == "method":
        from bayes_merger.merging.method import known_methods

        return known_methods()
    if re.fullmatch(r"model_[a-z]|vae|models\.\w+", key):
        return _models(value, words)
    if key == "anchors":
        from bayes_merger.run.folder import studies

        return [study.name for study in studies(Path(_given("runs", words) or "runs"))]
    return VALUES.get(key) or (("true", "false") if _leaves(RunConfig).get(key) == "bool" else ())


def _models(value: str, words: Sequence[str]) -> list[str]:
    """Models by name, and the files and folders of the place that is being typed."""
    from bayes_merger.checkpoints.shelves import models_on, shelves
    from bayes_merger.checkpoints.single_file import SUFFIXES

    place = Path(value.rpartition("/")[0] + "/").expanduser() if "/" in value else Path()
    head = value[: value.rfind("/") + 1]
    here = []
    if place.is_dir():
        for path in sorted(place.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                here.append(f"{head}{path.name}/")
            elif path.name.lower().endswith(SUFFIXES):
                here.append(head + path.name)
    return [*(path.stem for path in models_on(shelves(_given("models_dir", words) or None))), *here]
