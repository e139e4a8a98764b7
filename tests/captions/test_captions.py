"""Captions: encodings, and what a mirror does to words."""

import pytest

from tests.data.folders import add_clip, load, ramp
from utils.data.captions import read_caption, swap_left_right
from utils.data.errors import CaptionError


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a red circle moving right", "a red circle moving left"),
        ("Left to right, then LEFTWARDS", "Right to left, then RIGHTWARDS"),
        ("the leftmost cup, a left-hand turn, rightward", "the rightmost cup, a right-hand turn, leftward"),
        ("spins clockwise", "spins counterclockwise"),
        ("Counterclockwise, then anti-clockwise", "Clockwise, then clockwise"),
        ("一个红球向左移动", "一个红球向右移动"),
        ("顺时针旋转", "逆时针旋转"),
        ("bright copyright upright leftovers", "bright copyright upright leftovers"),
        ("left_arrow", "right_arrow"),
        ("", ""),
        ("a dog runs", "a dog runs"),
    ],
)
def test_mirrored_captions(text, expected):
    assert swap_left_right(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("he runs right away", "right now it rains", "All right!", "a dog left behind", "the train leaves"),
        *("human rights march", "she left the room", "two minutes left", "a right angle", "a text on a wall"),
        *("a sign by the road", "the letters A and B", "a word", "number 7", "a logo on the left", "a hand writing"),
        *(
            "墙上的字",
            "大约十米左右",
            "a license plate",
            "a clock moving right",
            "at 3 o'clock",
            'a shop called "Open"',
        ),
        *("une voiture va à gauche", "el coche gira a la izquierda", "мяч летит влево"),
    ],
)
def test_captions_a_mirror_would_falsify_are_not_mirrored(text):
    assert swap_left_right(text) is None


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"\xef\xbb\xbfa dog\r\nruns\r\n", "a dog runs"),
        ("一只狗".encode("utf-16"), "一只狗"),
        (b"a\0 dog  \n", "a dog"),
        (" \n", ""),
    ],
)
def test_captions_are_read_whatever_wrote_them(tmp_path, data, expected):
    path = tmp_path / "a.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    assert read_caption(path) == expected


def test_other_encodings_are_named_not_guessed(tmp_path):
    add_clip(tmp_path, "a", ramp(8), "一只狗".encode("gb18030"))
    with pytest.raises(CaptionError, match=r"a\.txt: byte 4 .*--caption_encoding gb18030"):
        load(tmp_path)
    assert load(tmp_path, caption_encoding="gb18030").captions() == ["一只狗"]
    (tmp_path / "captions/a.txt").write_bytes("一只狗".encode("utf-8-sig"))
    assert load(tmp_path, caption_encoding="gb18030").captions() == ["一只狗"]  # the byte order mark says UTF-8
    with pytest.raises(ValueError, match="no text encoding 'klingon'"):
        load(tmp_path, caption_encoding="klingon")
