"""Payloads: prompts and the numbers that go with them, from the files that people have for their web UI."""

from __future__ import annotations

from bayes_merger.imaging.payload.fields import payload_from_mapping
from bayes_merger.imaging.payload.payload import Payload, resolve

__all__ = ["Payload", "payload_from_mapping", "resolve"]
