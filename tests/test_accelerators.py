"""What an accelerator would run, checked without one: every program lowers for it, at full precision, on the device.

`experiments.benchmarks.lowering` does the same for every network of the zoo.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from experiments.compiled import TARGETS, lacking, launches, products
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


@pytest.mark.parametrize("target", TARGETS)
def test_the_main_programs_compile_in_full(target, tmp_path):
    if lack := lacking(target):
        pytest.skip(lack)
    out = tmp_path / "compiled.json"
    command = [sys.executable, "-m", "experiments.benchmarks.compiling", target, "--out", str(out)]
    for more in ([], ["digits", "--batch", "8"]):
        subprocess.run([*command, *more], check=True, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True)
    rows = json.loads(out.read_text())
    if target == "h200":
        assert rows["statistics, 1000: fit"]["launches"] <= 500
        assert rows["statistics, 1000: exact step"]["launches"] <= 200
    assert rows["digits, 8: integers"]["products"].get("s8", 0) >= 6
    assert not {"s32", "s64"} & set(rows["digits, 8: integers"]["products"])


def test_launches_and_products_are_counted():
    """A loop of five steps, each a kernel and a product, beside one kernel."""
    text = """
%body (p: (s32[])) -> (s32[]) {
  %a.1 = s8[8,8]{1,0} parameter(0)
  %fusion.1 = f32[8]{0} fusion(%a.1), kind=kLoop
  %cublas.1 = s32[8,8]{1,0} custom-call(%a.1, %a.1), custom_call_target="__cublas$gemm"
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %while.1 = (s32[]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %fusion.2 = f32[8]{0} fusion(%x), kind=kLoop
}
"""
    assert launches(text) == 11
    assert products(text) == {"s8": 1}


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
