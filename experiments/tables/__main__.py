"""`python -m experiments.tables`."""

from __future__ import annotations

from experiments.tables import main

main()
