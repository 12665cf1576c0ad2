"""What an accelerator would run, checked without one: every program lowers for it, at full precision, on the device.

`experiments.benchmarks.lowering` does the same for every network of the zoo.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from experiments.lowering import PLATFORMS, faults, programs_of, statistics
from ggdjax import zoo


@pytest.fixture(scope="module", params=["digits", "mobilenet_v2_small"])
def programs(request):
    """A plain network, and one of depthwise convolutions and clips."""
    return programs_of(request.param, side=32)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_program_of_a_network_lowers(programs, platform):
    assert set(programs) == {"float", "calibrating", "fake-quantized", "evaluating", "tuning", "integers"}
    for name, (function, arguments) in programs.items():
        text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert not faults(text), name


@pytest.mark.parametrize("platform", PLATFORMS)
def test_fits_steps_and_rounding_lower(platform):
    for name, (function, arguments) in statistics().items():
        text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert not faults(text), name


def test_faults_are_seen():
    def lowered(function, x):
        return jax.jit(function).trace(x).lower(lowering_platforms=("cuda",)).as_text()

    assert "full precision" in " ".join(faults(lowered(lambda x: x @ jnp.ones((2, 2)), jnp.ones(2))))
    with jax.enable_x64(True):
        assert "64 bits" in " ".join(faults(lowered(lambda x: x + 1.0, jnp.ones(2, jnp.float64))))


def test_branches_of_accelerators_give_what_those_of_a_cpu_do(monkeypatch):
    """Where a program has a branch for CPUs and one for all others, both compute the same counts and integers."""
    net = gd.trace(zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32))
    x = np.random.default_rng(0).uniform(size=(16, 8, 8, 1)).astype(np.float32)

    def everything():
        jax.clear_caches()
        calibration = gd.calibrate(net, [x], per_channel=True)
        q = gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs"))
        return calibration.histograms.counts, gd.datapath.compile(q).integers(x), net(x), q(x)

    cpu, taken = everything(), []

    def other(*arguments, default, **branches):
        taken.append(branches)
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", other)
    accelerator = everything()
    jax.clear_caches()
    assert taken
    # A sum in another order moves a value to the next bin now and then, and a code where it lies on a threshold.
    assert np.abs(np.asarray(cpu[0], np.int64) - accelerator[0]).sum() <= 1e-4 * cpu[0].sum()
    assert np.mean(np.asarray(cpu[1]) != accelerator[1]) <= 0.02
    for own, there in zip(cpu[2:], accelerator[2:], strict=True):
        np.testing.assert_allclose(own, there, rtol=1e-2, atol=1e-2)
