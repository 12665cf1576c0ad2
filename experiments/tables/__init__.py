"""The tables of the work, regenerated from the results: `python -m experiments tables`."""
