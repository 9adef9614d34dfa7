"""Words for people."""

from __future__ import annotations


def counted(count: int | str, one: str, many: str | None = None) -> str:
    """A count and its noun: "1 step", "1,000 steps". many: the plural, where it is not `one` with an s."""
    text = count if isinstance(count, str) else f"{count:,}"
    return f"{text} {one if text == '1' else many or one + 's'}"
