"""Videos and their frame folders that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.clips import encode, panning_clip
from tests.frame_folders.preparing import prepare


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three clips that move at 1, 2 and 4 times a speed, of 20, 24 and 28 frames at 10 fps, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for name, speed, count in (("a.mp4", 0.05, 20), ("b.MKV", 0.1, 24), ("d10.webm", 0.2, 28)):
        codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
        encode(folder / name, panning_clip(speed, count, height=48, width=64), codec)
    (folder / "d9.mp4").write_text("no video, only words")
    return folder


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    """The dataset of `videos`, made in one go."""
    output = tmp_path_factory.mktemp("whole") / "dataset"
    prepare(videos, output)
    return output
