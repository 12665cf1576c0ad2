"""What schemes choose alone and inside another program; as a script, for those that fit: OUT."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from scheme_samples import samples

from ggdjax import Histogram, schemes

FIELDS = ("step", "qmin", "qmax", "lowest", "code", "predicted_sqnr_db")
FITS = tuple(name for name in schemes.names() if name.startswith("ggd"))


def alone_and_jitted(name: str) -> np.ndarray:
    """Return ``(2, field, width, tensor)``: the fields chosen alone, and inside another program."""
    tensors = list(samples().values())
    histograms, bits = Histogram.stack([Histogram.from_samples(tensors[i]) for i in (0, 1, 3)]), jnp.array([[8], [4]])
    alone = schemes.choose(name, histograms, bits)
    jitted = jax.jit(lambda h, b: schemes.choose(name, h, b))(histograms, bits)
    return np.asarray([[np.asarray(getattr(choice, field)) for field in FIELDS] for choice in (alone, jitted)])


if __name__ == "__main__":
    np.savez(sys.argv[1], **{name: alone_and_jitted(name) for name in FITS})
