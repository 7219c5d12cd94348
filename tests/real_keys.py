"""The key lists of real models, where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FACTS = Path(os.environ.get("BAYES_MERGER_FACTS", "/nowhere"))
needs_facts = pytest.mark.skipif(not FACTS.is_dir(), reason="BAYES_MERGER_FACTS names no folder of key lists")


def facts(name: str) -> dict[str, dict[str, Any]]:
    """Key to what is known of its tensor: shape, component, ..."""
    found: dict[str, dict[str, Any]] = json.loads((FACTS / "keys" / f"{name}.json").read_text())
    return found


def fact_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Key to shape."""
    return {key: tuple(about["shape"]) for key, about in facts(name).items()}
