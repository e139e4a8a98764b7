"""Contact sheets."""

import numpy as np

from tests.clips import moving_clip
from utils.video import contact_sheet as sheets
from utils.video.contact_sheet import contact_sheet


def test_contact_sheet_shows_evenly_spaced_frames_enlarged():
    clip = moving_clip(16, 16, 16)
    sheet = contact_sheet([clip], ["a prompt"], max_frames=3, scale=2)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 3 * (32 + 4) + 4
    for n, shown in enumerate((0, 8, 15)):
        left = 4 + n * 36
        assert np.array_equal(sheet[-36:-4, left : left + 32], clip[shown].repeat(2, 0).repeat(2, 1))


def test_contact_sheet_takes_any_label():
    clip = moving_clip(4, 16, 24)
    labels = ["", "一只猫", "word " * 300, "x" * 3000, "a\nb\x1b[2J\0", "🎈\ud800"]
    sheet = contact_sheet([clip, clip[:1], *[clip] * 4], labels)
    assert sheet.shape[1] == 4 * (24 * 5 + 4) + 4
    assert sheets._drawable("猫 cat\n") == "\\u732b cat\\n"
