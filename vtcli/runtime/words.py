"""Numbers and names in texts: counts with their nouns in agreement, percentages, valid UTF-8.

Every room uses these, so that "1 video" and "1,204 videos" are written the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence


def plural(n: int, one: str, many: str = "") -> str:
    """The number with a comma per thousand and its noun: `plural(1204, "video")` is "1,204 videos".

    many: the plural where it is not `one` and an "s", as in `plural(2, "class", "classes")`.
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def and_more(n: int) -> str:
    """The end of a list that leaves out `n` of its items; "" where it leaves out none."""
    return f"and {n:,} more" if n > 0 else ""


def first_of(names: Sequence[str], shown: int = 3) -> str:
    """The first of some names in quotes, and how many more there are; "" for none."""
    listed = ", ".join(f"'{name}'" for name in names[:shown])
    more = and_more(len(names) - shown)
    return f"{listed} {more}" if more else listed


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal, as papers print it."""
    return f"{100 * fraction:.1f}"


def valid_text(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file name that are not valid UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
