"""Handwritten digits: 1,797 grey 8×8 images, values 0 to 16, in a fixed split.

The test part of E. Alpaydin and C. Kaynak's *Optical Recognition of Handwritten Digits* (UCI, 1998, CC BY 4.0), as
scikit-learn has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ggdjax.data._arrays import from_arrays
from ggdjax.data._preprocessing import Preprocessing
from ggdjax.data._split import hash_order

if TYPE_CHECKING:
    from ggdjax.data._arrays import ArrayImages

#: Pixels count the set dots of a 4×4 block, 0 to 16: mapped to [0, 1].
PREPROCESSING = Preprocessing(colour_order="GRAY", scale=1 / 16, layout="NHWC")
#: Sizes of the disjoint parts, the rest is for testing; 512 for calibration is the command's default.
_TRAIN, _CALIBRATION = 785, 512
_SEED = 0


def digits(preprocessing: Preprocessing = PREPROCESSING) -> ArrayImages:
    """Return the digits with the disjoint parts `train` (785), `calibration` (512) and `test` (500).

    The parts are immutable: they depend on the images' numbers alone (`hash_order`).

    Example:
        >>> images = gd.data.digits()
        >>> {name: len(part) for name, part in images.parts.items()}
        {'train': 785, 'calibration': 512, 'test': 500}
    """
    with np.load(Path(__file__).with_name("_digits.npz")) as stored:
        images, labels = stored["images"], stored["labels"].astype(np.int64)
    count = len(labels)
    ids = [f"digits/{i:04d}" for i in range(count)]
    order = hash_order(ids, _SEED)
    ends = np.cumsum([_TRAIN, _CALIBRATION])
    parts = {
        name: np.sort(part) for name, part in zip(("train", "calibration", "test"), np.split(order, ends), strict=True)
    }
    return from_arrays(
        images,
        labels,
        preprocessing,
        ids=ids,
        classes=list("0123456789"),
        parts=parts,
        name="digits",
    )
