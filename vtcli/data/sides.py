"""Class names that name a side or a sense of rotation, which a horizontal flip turns into another.

Names are split at punctuation, digits and CamelCase (`TurnLeft`, `left2right`, `swipe_l`). Two
classes whose names differ only by a pair of side words are recognized even where the words are
written together or abbreviated (`leftturn` and `rightturn`, `turn_L` and `turn_R`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Letters of one case, or capitalized; digits and punctuation separate words.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_WORDS = frozenset(
    {
        *("left", "right", "leftward", "rightward", "leftwards", "rightwards"),
        *("leftside", "rightside", "lefthand", "righthand", "lefthanded", "righthanded"),
        *("clockwise", "counterclockwise", "anticlockwise", "cw", "ccw", "acw"),
        *("lh", "rh", "lhs", "rhs", "ltr", "rtl"),
    }
)
# Words that only mean a side if another class has the other one in the same place.
_PAIRS = (
    *(("left", "right"), ("l", "r"), ("lt", "rt"), ("lft", "rgt"), ("cw", "ccw")),
    *(("links", "rechts"), ("linke", "rechte"), ("gauche", "droite"), ("izquierda", "derecha")),
    *(("sinistra", "destra"), ("esquerda", "direita"), ("左", "右")),
)
# A side word written together with another, at its beginning or end: `leftturn`, `turnright`. The
# exceptions are English words that begin or end like one.
_JOINED = re.compile(r"^(left|right|clockwise|counterclockwise|anticlockwise).+|.+(left|right)$")
_NOT_A_SIDE = re.compile(
    r"left(over|ist|ism|y|ies)s?|right(eous|ful|ist|ism|s|ly|ness|ing|ed|sholder)\w*"
    r"|(b|w|f|al|up|down|out|forth|copy|birth|play|wheel|cart|ship|mill|wain|fore|bull|affr)right(s|ly)?"
    r"|cleft|(c|over)left"
)


def direction_sensitive(names: Sequence[str]) -> tuple[str, ...]:
    """The names, in order, that a horizontal flip may turn into those of another class."""
    words = {name: [word.casefold() for word in _WORD.findall(name)] for name in names}
    found = {name for name, parts in words.items() if any(map(_names_a_side, parts))}
    return tuple(name for name in names if name in found | _paired(words))


def _names_a_side(word: str) -> bool:
    if word in _WORDS:
        return True
    return bool(_JOINED.fullmatch(word)) and not _NOT_A_SIDE.fullmatch(word)


def _paired(words: dict[str, list[str]]) -> set[str]:
    """Names that become each other's where one side word is replaced by its opposite."""
    by_words = {tuple(parts): name for name, parts in words.items()}
    by_letters = {"".join(parts): name for name, parts in words.items()}
    found = set()
    for name, parts in words.items():
        for one, other in (pair[::step] for pair in _PAIRS for step in (1, -1)):
            swapped = [tuple(other if part == one else part for part in parts)]
            joined = "".join(parts)
            twin = next((by_words[s] for s in swapped if s in by_words and s != tuple(parts)), None)
            if twin is None and one in joined and (len(one) > 2 or not one.isascii()):
                twin = by_letters.get(joined.replace(one, other))
            if twin is None and joined.endswith(one) and len(one) == 1:
                twin = by_letters.get(joined[: -len(one)] + other)
            if twin is not None and twin != name:
                found |= {name, twin}
    return found
