"""Words for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(count: int | str, one: str, many: str | None = None) -> str:
    """A count and its noun: "1 step", "1,000 steps". many: the plural, where it is not `one` with an s."""
    text = count if isinstance(count, str) else f"{count:,}"
    return f"{text} {one if text == '1' else many or one + 's'}"


def meant(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known: which close one there is; "" where none is close."""
    words = {word.lower(): word for word in known}
    close = [] if given in words.values() else difflib.get_close_matches(given.lower(), words, 1)
    return f"; did you mean '{words[close[0]]}'?" if close else ""
