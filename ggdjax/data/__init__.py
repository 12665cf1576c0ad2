"""Images with labels, streamed: folders, `labels.csv`, `.npz`, archives, arrays, TFDS, and the embedded digits."""

from __future__ import annotations

from ggdjax.data._archive import default_cache_dir
from ggdjax.data._arrays import from_arrays
from ggdjax.data._digits import digits
from ggdjax.data._image_set import ImageSet, padded
from ggdjax.data._opening import open_images
from ggdjax.data._preprocessing import PRESETS, Preprocessing, preset
from ggdjax.data._split import Split, hash_order, split, split_by_ids, split_every, split_tuning

__all__ = [
    "PRESETS",
    "ImageSet",
    "Preprocessing",
    "Split",
    "default_cache_dir",
    "digits",
    "from_arrays",
    "hash_order",
    "open_images",
    "padded",
    "preset",
    "split",
    "split_by_ids",
    "split_every",
    "split_tuning",
]
