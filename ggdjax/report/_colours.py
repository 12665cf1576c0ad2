"""Colours that the colour-blind tell apart (Okabe and Ito 2008), the same in every plot."""

from __future__ import annotations

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
#: Of one line after the other.
CYCLE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
