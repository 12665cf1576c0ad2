"""Integers as the lines of a `$readmemh` file, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError

if TYPE_CHECKING:
    from jaxtyping import Int

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_VALUES = np.full(256, 255, np.uint8)
_VALUES[_DIGITS] = np.arange(16)


def digits_of(bits: int) -> int:
    """Return the number of hexadecimal digits of a word of ``bits`` bits."""
    return -(-bits // 4)


def hex_lines(words: Int[np.ndarray, "words lanes"], bits: int) -> bytes:
    """Return one line per word, two's complement with ``bits`` bits per lane, lane 0 in the lowest bits."""
    count, lanes = words.shape
    flags = (words.astype(np.int64)[..., None] >> np.arange(bits)) & 1
    flags = flags.astype(np.uint8).reshape(count, lanes * bits)
    digits = digits_of(lanes * bits)
    flags = np.pad(flags, ((0, 0), (0, 4 * digits - lanes * bits))).reshape(count, digits, 4)
    nibbles = flags @ np.array([1, 2, 4, 8], np.uint8)
    lines = np.full((count, digits + 1), ord("\n"), np.uint8)
    lines[:, :-1] = _DIGITS[nibbles[:, ::-1]]
    return lines.tobytes()


def parse_hex(text: bytes, bits: int, signed: bool, what: str) -> Int[np.ndarray, " words"]:
    """Return the numbers of the lines that `hex_lines` wrote with one lane, int64.

    Raises:
        GgdjaxError: a line is something else; names ``what``.
    """
    digits = digits_of(bits)
    raw = np.frombuffer(text, np.uint8)
    if raw.size % (digits + 1) or (raw[digits :: digits + 1] != ord("\n")).any():
        raise GgdjaxError(f"{what} must hold one word of {digits} hexadecimal digits a line: export it again")
    nibbles = _VALUES[raw.reshape(-1, digits + 1)[:, :-1]].astype(np.int64)
    if (nibbles > 15).any():
        raise GgdjaxError(f"{what} holds something else than hexadecimal digits: export it again")
    words = nibbles @ (1 << 4 * np.arange(digits - 1, -1, -1, dtype=np.int64))
    return np.where(signed & (words >> (bits - 1) == 1), words - (1 << bits), words)
