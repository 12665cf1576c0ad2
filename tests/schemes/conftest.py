from __future__ import annotations

import numpy as np
import pytest
from scheme_samples import samples

from ggdjax.ggd._histogram import Histogram


@pytest.fixture(scope="session")
def tensors() -> dict[str, np.ndarray]:
    return samples()


@pytest.fixture(scope="session")
def histograms(tensors) -> Histogram:
    return Histogram.stack([Histogram.from_samples(values) for values in tensors.values()])
