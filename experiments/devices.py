"""Which device JAX computes on: a platform, or one of the devices that it sees."""

from __future__ import annotations

import os

from ggdjax import GgdjaxError

PLATFORMS = ("cpu", "gpu", "tpu")


def choose(name: str | None) -> None:
    """Let JAX compute on a platform, as processes that this one starts do, too; or on one device, by its index.

    Raises:
        GgdjaxError: there is no such device here; names those that there are.
    """
    if name is None:
        return
    if name not in PLATFORMS and not name.isdecimal():
        raise GgdjaxError(f"`--device` is cpu, gpu, tpu or an index, such as 0; got `{name}`")
    import jax

    before = jax.config.jax_platforms
    if name in PLATFORMS:
        # Before JAX looks for devices: it takes the memory of each that it finds.
        jax.config.update("jax_platforms", {"gpu": "cuda,cpu", "tpu": "tpu,cpu"}.get(name, name))
    try:
        found = jax.devices(name) if name in PLATFORMS else jax.devices()[int(name) :]
    except RuntimeError:
        found = []
    if not found:
        jax.config.update("jax_platforms", before)
        there = ", ".join(f"{index} ({device.platform})" for index, device in enumerate(jax.devices()))
        raise GgdjaxError(f"`--device {name}`: there is none here; JAX sees {there}")
    if found[0] != jax.devices()[0]:
        jax.config.update("jax_default_device", found[0])
    if name in PLATFORMS:
        os.environ["JAX_PLATFORMS"] = jax.config.jax_platforms
