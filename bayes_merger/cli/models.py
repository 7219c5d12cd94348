"""``models``: which models have names, what they are, and the hash by which web UIs know them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bayes_merger.checkpoints.hashes import known_sha256, sha256_of
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.shards import is_further_part
from bayes_merger.checkpoints.shelves import VARIABLE, models_on, shelves
from bayes_merger.cli.arguments import Parser
from bayes_merger.errors import ConfigError, UserError, printable

SHOWN = 10
"""Letters of a SHA-256 that A1111, Forge and model sites show."""


def models(arguments: Sequence[str]) -> None:
    """List the models that can be given by name.

    Raises:
        ConfigError: no folder to look into.
    """
    parser = Parser(
        prog="bayes-merger models",
        description="The models that model_a=NAME finds: name, kind, size, hash. Where they are looked for: in "
        f"models_dir=FOLDER, or in the environment variable {VARIABLE}; the folder of A1111's web UI, Forge, ComfyUI "
        "or InvokeAI, or one of models.",
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="look there instead")
    parser.add_argument("--all", action="store_true", help="also what cannot be merged: upscalers, embeddings, ...")
    parser.add_argument("--hash", action="store_true", help="compute hashes (a second per gigabyte, then remembered)")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    named = [folder.removeprefix("models_dir=") for folder in options.folders]
    folders = [found for folder in named for found in shelves(folder)] if named else shelves()
    if not folders:
        raise ConfigError(f"models: where are they? give a folder, like  bayes-merger models ~/ComfyUI, or {VARIABLE}")
    found = [_about(path, hashed=options.hash) for path in models_on(folders) if not is_further_part(path)]
    shown = [one for one in found if options.all or one["merges"]]
    if options.json:
        print(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    if not shown:
        looked = " or ".join(map(str, folders))
        more = f"; {len(found)} that cannot be merged: --all" if found else ""
        raise ConfigError(f"models: there is none in {looked}{more}; give the folder of a web UI, or one of models")
    table = Table(box=None, pad_edge=False)
    for title in ("name", "kind", "size", "hash", "in"):
        table.add_column(title, overflow="fold")  # a name that is cut cannot be typed
    for one in shown:
        where = Path(one["path"]).parent
        size = f"{one['bytes'] / 1e9:.2f} GB"
        table.add_row(printable(one["name"]), one["kind"], size, one["sha256"][:SHOWN], printable(str(where)))
    Console(markup=False, highlight=False).print(table)
    if len(shown) < len(found):
        print(f"{len(found) - len(shown)} more that cannot be merged: --all")
    if any(not one["sha256"] for one in shown):
        print("hashes that are not known yet: --hash")


def _about(path: Path, *, hashed: bool) -> dict[str, Any]:
    """What is said of a file: pickles are not looked into, which would take long."""
    kind, merges = "pickle", True
    files: tuple[Path, ...] = (path,)
    if path.suffix.lower() in (".safetensors", ".sft"):
        try:
            with open_checkpoint(path) as checkpoint:
                kind, files = checkpoint.kind.name, checkpoint.files
                merges = kind in ("lora", "vae") or not checkpoint.kind.way_out
        except UserError:
            kind, merges = "damaged", False
    try:
        sha256 = sha256_of(path) if hashed else known_sha256(path)
    except OSError:
        sha256 = ""
    if len(files) > 1:  # web UIs know none of several files
        sha256 = ""
    size = sum(file.stat().st_size for file in files)
    return {"name": path.stem, "kind": kind, "merges": merges, "bytes": size, "sha256": sha256, "path": str(path)}
