"""Class names whose meaning a horizontal flip changes."""

from __future__ import annotations

import pytest

from vtcli.data.sides import direction_sensitive


@pytest.mark.parametrize(
    "name",
    [
        *("TurnLeft", "leftturn", "turnright", "left2right", "Left", "turn-right", "swipe left 2"),
        *("ccw", "rotate_cw", "rotateCCW", "clockwise", "counter-clockwise", "Anticlockwise spin"),
        *("MoveLEFT", "left_hand_up", "LeftArm", "righthanded", "hand3right", "turnLeft90"),
        "Pushing_something_from_left_to_right",
    ],
)
def test_a_name_with_a_side_word_is_direction_sensitive(name: str) -> None:
    assert direction_sensitive(["walk", name]) == (name,)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("swipe_l", "swipe_r"), ("turn_L", "turn_R"), ("swipeL", "swipeR"), ("l", "r")),
        *(
            ("jump lt", "jump rt"),
            ("hookleftarm", "hookrightarm"),
            ("l2", "r2"),
            ("swipel", "swiper"),
        ),
        *(("rechts drehen", "links drehen"), ("左转", "右转"), ("gauche", "droite")),
    ],
)
def test_two_names_that_differ_by_a_side_word_are_direction_sensitive(one: str, other: str) -> None:
    assert direction_sensitive([one, "walk", other]) == (one, other)


@pytest.mark.parametrize(
    "names",
    [
        ("leftovers", "bright", "copyright", "cleft", "upright", "rights", "frightened", "alright"),
        ("grade_r", "walk", "vitamin_l"),
        ("up", "down", "in", "out"),
        ("playing cards", "cartwheel", "straightening", "wright", "righteous"),
    ],
)
def test_other_names_are_not(names: tuple[str, ...]) -> None:
    assert direction_sensitive(names) == ()
