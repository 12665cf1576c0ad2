"""Random JAX functions: the networks traced from them against the functions themselves.

    python -m experiments.benchmarks.fuzz_tracer                          2,000 functions
    python -m experiments.benchmarks.fuzz_tracer --seed 2000 --count 500   others
    python -m experiments.benchmarks.fuzz_tracer --seed 35 --count 1       one, in full; nothing is written

`experiments.random_functions` draws them, one per seed, of operations of `jax.lax`, `jax.numpy`, `jax.nn` and Linen,
some inside `jit`, `checkpoint` and `vmap`. Each network runs on batches of three images and of one. Beyond float
tolerance, or any exception but a refusal of one line, is a difference. Expected: none. What is refused is counted by
kind.

Writes `experiments/results/fuzz_tracer.json` after every twentieth function, and resumes from it. One second a
function.
"""

from __future__ import annotations

from experiments import fuzzing
from experiments.random_functions import check

if __name__ == "__main__":
    fuzzing.main(check, "fuzz_tracer", __doc__)
