from __future__ import annotations

from tests.datapath.conftest import by_largest, digits, images

__all__ = ["by_largest", "digits", "images"]
