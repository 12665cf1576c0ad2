"""Counts the programs that XLA compiles."""

from __future__ import annotations

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Programs:
    """Seconds of every compilation while it is open."""

    def __enter__(self) -> list[float]:
        self.seconds: list[float] = []
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self.seconds

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, seconds: float, **_: object) -> None:
        if event == _COMPILED:
            self.seconds.append(seconds)
