"""The nine tables of the work, regenerated from the results files: `python -m experiments tables`."""

from __future__ import annotations

from experiments.tables.command import main

__all__ = ["main"]
