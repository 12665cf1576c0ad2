"""`python -m experiments.tables`."""

from __future__ import annotations

from experiments.tables import main

if __name__ == "__main__":
    main()
