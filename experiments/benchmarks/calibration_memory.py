"""Peak memory of calibration against the number of images, each in a process of its own: it must not grow.

    python -m experiments run timings --benchmarks calibration-memory

The same random 96×96 images as an image folder (JPEG) and as an `.npz` file, through a small convolutional network. The
figure is the operating system's peak resident set of the whole process. It rises until the decoding threads' buffers
have all been used once (a few hundred images), and stays. An `.npz` file is an array in memory: the bytes of its images
(27 KiB each) are given beside the peak.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZES = (100, 1000, 3000)
BATCH, SIDE = 20, 96


def measure(quick: bool) -> dict[str, dict[str, float]]:
    """Return the peaks in MiB by number of images, and how they grow; quick: of a tenth of the images."""
    figures: dict[str, dict[str, float]] = {}
    sizes = [size // (10 if quick else 1) for size in SIZES]
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("folder", "npz"):
            peaks = {}
            for size in sizes:
                command = [sys.executable, "-m", __name__, str(_write(Path(scratch), name, size)), str(size)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                peaks[str(size)] = round(float(done.stdout.split()[-1]), 1)
            growth = round(peaks[str(sizes[-1])] / peaks[str(sizes[-2])], 3)
            held = round((sizes[-1] - sizes[-2]) * 3 * SIDE**2 / 2**20, 1) if name == "npz" else 0.0
            figures[name] = peaks | {"growth": growth, "growth_of_the_images_mib": held}
    return figures


def _write(folder: Path, kind: str, size: int) -> Path:
    """Write ``size`` random images as class folders of JPEG files or as an `.npz` file."""
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (size, SIDE, SIDE, 3), np.uint8)
    target = folder / f"{kind}{size}"
    if kind == "npz":
        np.savez(target.with_suffix(".npz"), image=images, label=np.arange(size) % 10)
        return target.with_suffix(".npz")
    for index, image in enumerate(images):
        parent = target / f"class{index % 10}"
        parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(parent / f"{index}.jpg")
    return target


def _calibrate(source: Path, size: int) -> float:
    """Calibrate a small network on ``size`` images; return the peak resident set of this process in MiB."""
    import jax
    import jax.numpy as jnp

    from ggdjax import data, network, quantization

    kernels = [
        jax.random.normal(jax.random.key(k), shape) / 8 for k, shape in enumerate(((3, 3, 3, 16), (3, 3, 16, 32)))
    ]

    def forward(x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(
                x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
            )
            x = jax.nn.relu(x)
        return x.mean((1, 2)) @ jnp.ones((32, 10))

    net = network.trace(forward, jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32))
    images = data.open_images(source, data.Preprocessing(layout="NHWC"))
    batches = (x for x, _ in images.batches(np.arange(size), BATCH))
    quantization.calibrate(net, batches)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    print(_calibrate(Path(sys.argv[1]), int(sys.argv[2])))
