"""Values that are too large, or too repetitive, to be written into the case files: `:value` with `each = ["@name"]`."""

from __future__ import annotations

# In every payload, header and result of these tests. It must never be seen in a message or in the server's log.
CANARY = "canary-9f81c2"

MIB = 1024 * 1024


def _nested(depth: int, opening: str, closing: str, core: str) -> str:
    return opening * depth + core + closing * depth


def _text_of(size: int) -> str:
    """A JSON object of about `size` bytes, as text and as jsonb alike."""
    return '{"a": "' + CANARY + "x" * (size - len(CANARY) - 14) + '"}'


VALUES = {
    "arrays_128": _nested(128, "[", "]", "1"),
    "arrays_5000": _nested(5000, "[", "]", "1"),
    "arrays_20000": _nested(20000, "[", "]", "1"),
    "objects_128": _nested(128, '{"a":', "}", "1"),
    "objects_5000": _nested(5000, '{"a":', "}", "1"),
    "objects_20000": _nested(20000, '{"a":', "}", "1"),
    "below_1_mib": _text_of(MIB - 100),
    "above_1_mib": _text_of(MIB + 100),
    "array_above_1_mib": f'["{CANARY}' + "x" * (MIB + 100) + '"]',
    "array_of_10000": "[" + ",".join(["{}"] * 10_000) + "]",
    "array_of_10001": "[" + ",".join(["{}"] * 10_001) + "]",
    "array_of_1000000": "[" + ",".join(["{}"] * 1_000_000) + "]",
    "jobs_10001": "[" + ",".join(['{"kind":"k"}'] * 10_001) + "]",
    "queues_65": ",".join(["default"] * 65),
    "kinds_17": "{" + ",".join(f"k{n}" for n in range(1, 18)) + "}",
    "kinds_1000": "{" + ",".join(f"k{n}" for n in range(1, 1001)) + "}",
    "text_63": "q" * 63,
    "text_64": "q" * 64,
    "text_128": "w" * 128,
    "text_129": "w" * 129,
    "text_200": "n" * 200,
    "text_200_wide": "é" * 200,
    "text_201": "n" * 201,
    "text_201_wide": "é" * 201,
    "text_10000": "t" * 10_000,
    "right_to_left": "a\u202eb",
    "zero_width": "a\u200bb",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "emoji": "queue-\U0001f600",
    "cyrillic_a": "\u0430bc",
    "no_break_space": "a\u00a0b",
    "hostile_text": "one\ntwo\r\n\x1b[31mred\x1b[0m\ttab\u2028line\u2029paragraph \\x00 'quote' \"double\" %s $1",
}
