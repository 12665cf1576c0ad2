"""Images with labels, streamed: folders, `labels.csv`, `.npz`, archives, arrays, TFDS, and the embedded digits."""

from __future__ import annotations

from ggdjax.data._archive import default_cache_dir, extract
from ggdjax.data._arrays import from_arrays, load_npz
from ggdjax.data._digits import digits
from ggdjax.data._folder import class_folders, labelled_folder
from ggdjax.data._image_set import ImageSet, check_labels, padded
from ggdjax.data._opening import open_images
from ggdjax.data._preprocessing import PRESETS, Preprocessing, preset
from ggdjax.data._sizes import check_sizes
from ggdjax.data._split import Split, hash_order, split, split_by_ids, split_every, split_tuning
from ggdjax.data._tfds import open_tfds

__all__ = [
    "PRESETS",
    "ImageSet",
    "Preprocessing",
    "Split",
    "check_labels",
    "check_sizes",
    "class_folders",
    "default_cache_dir",
    "digits",
    "extract",
    "from_arrays",
    "hash_order",
    "labelled_folder",
    "load_npz",
    "open_images",
    "open_tfds",
    "padded",
    "preset",
    "split",
    "split_by_ids",
    "split_every",
    "split_tuning",
]
