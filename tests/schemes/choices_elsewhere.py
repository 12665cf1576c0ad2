"""What schemes choose alone and inside another program; as a script, for those that fit: OUT."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scheme_samples import samples

from ggdjax import Histogram, schemes

FIELDS = ("step", "qmin", "qmax", "lowest", "code", "predicted_sqnr_db")
FITS = tuple(name for name in schemes.names() if name.startswith("ggd"))


def alone_and_jitted(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return ``(2, field, width, tensor)`` by name: the fields chosen alone, and inside one program for all names."""
    tensors = list(samples().values())
    histograms, bits = Histogram.stack([Histogram.from_samples(tensors[i]) for i in (0, 1, 3)]), jnp.array([[8], [4]])

    def choose(histograms: Histogram, bits: jax.Array) -> dict[str, schemes.Choice]:
        return {name: schemes.choose(name, histograms, bits) for name in names}

    both = choose(histograms, bits), jax.jit(choose)(histograms, bits)
    return {
        name: np.asarray([[np.asarray(getattr(found[name], field)) for field in FIELDS] for found in both])
        for name in names
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **alone_and_jitted(FITS))
