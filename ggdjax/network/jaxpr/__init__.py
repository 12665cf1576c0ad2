"""Tracing JAX functions and modules."""

from __future__ import annotations

from ggdjax.network.jaxpr._tracer import trace

__all__ = ["trace"]
