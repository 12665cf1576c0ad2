"""The same results on one device, on eight, and in two processes."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import GgdjaxError
from tests.elsewhere import run_elsewhere

HERE = Path(__file__).parent
SCRIPT = HERE / "devices_elsewhere.py"
#: Sums of floats in another order.
NEARLY = {"ranges", "moments", "sqnr"}


@pytest.fixture(scope="module")
def here():
    sys.path.insert(0, str(HERE))
    sys.path.insert(0, str(HERE.parent / "tune"))
    try:
        from devices_elsewhere import results

        return results()
    finally:
        del sys.path[:2]


@pytest.mark.parametrize("how", ["devices", "processes"])
def test_the_same_on_many_devices_and_processes(here, tmp_path, how):
    out = tmp_path / "results.pickle"
    run_elsewhere(SCRIPT, out, how)
    there = pickle.loads(out.read_bytes())
    if how == "devices":
        assert there["programs"] == 2  # one for the first two batches, one for the larger third
    for name, own in ((name, own) for name, own in here.items() if name != "programs"):
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(there[name]), strict=True):
            # Counts to the integer; extremes are floats, which a batch of another size sums in another order.
            if name in NEARLY or (name in {"histograms", "channels"} and a.dtype.kind == "f"):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=name)
            elif name == "losses":  # a code that turns changes the steps after it
                np.testing.assert_allclose(a[:2], b[:2], rtol=1e-4)
                np.testing.assert_allclose(a, b, rtol=0.1)
            elif name == "rounded":  # a code near a threshold may turn
                assert np.mean(np.abs(a - b) > 1e-5) < 0.01, name
            elif name == "tuned":  # and changes the steps after it
                assert np.mean(np.abs(a - b) > 1e-2 * np.abs(a).max()) < 0.05, name
            else:
                np.testing.assert_array_equal(a, b, err_msg=name)


def test_what_is_no_mesh_is_refused():
    net = gd.trace(
        lambda x: jax.nn.relu(x @ np.eye(4, dtype=np.float32)) @ np.eye(4, dtype=np.float32),
        np.zeros((1, 4), np.float32),
    )
    with pytest.raises(GgdjaxError, match=r"^`mesh` is 8; expected a `jax.sharding.Mesh`"):
        gd.calibrate(net, [np.ones((2, 4), np.float32)], mesh=8)
