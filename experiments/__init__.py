"""Benchmarks and experiments: everything here uses the public names of ggdjax only."""
