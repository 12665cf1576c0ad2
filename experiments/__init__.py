"""Benchmarks and experiments, by the public names of ggdjax (the naive search also asks it for its candidates)."""
