"""Random ONNX models: the networks read from them against ONNX Runtime, without its optimizations.

    python -m experiments.benchmarks.fuzz_onnx                          2,000 models
    python -m experiments.benchmarks.fuzz_onnx --seed 2000 --count 500   others
    python -m experiments.benchmarks.fuzz_onnx --seed 35 --count 1       one, in full; nothing is written

`experiments.random_onnx` draws them, one per seed, of all operators that the importer has: ranks, shapes, attributes,
operator sets, constants as initializers and as nodes, shape arithmetic, batches free and declared. Each network runs
on batches of three images and of one. Beyond float tolerance, or any exception but a refusal of one line, is a
difference. Expected: none. What is refused is counted by kind.

Writes `experiments/results/fuzz_onnx.json` after every twentieth model, and resumes from it. Four models a second.
"""

from __future__ import annotations

from experiments import fuzzing
from experiments.random_onnx import check

if __name__ == "__main__":
    fuzzing.main(check, "fuzz_onnx", __doc__)
