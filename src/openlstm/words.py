"""Words for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(count: int | str, one: str, many: str | None = None) -> str:
    """A count and its noun: "1 step", "1,000 steps". many: the plural, where it is not `one` with an s."""
    text = count if isinstance(count, str) else f"{count:,}"
    return f"{text} {one if text == '1' else many or one + 's'}"


def close(given: str, known: Iterable[str]) -> str:
    """The known word that is closest to one that is not known; "" where none is close."""
    words = {word.lower(): word for word in known}
    found = [] if given in words.values() else difflib.get_close_matches(given.lower(), words, 1)
    return words[found[0]] if found else ""


def meant(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known, with the close one if there is one."""
    word = close(given, known)
    return f"; did you mean '{word}'?" if word else ""
