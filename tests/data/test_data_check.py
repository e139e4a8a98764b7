"""The report on a folder of clips."""

import json

import cv2
import numpy as np

from tests.data.folders import add_clip, ramp
from video_dataset import main, parse_args


def test_check_finds_corrupt_short_static_duplicate_and_captionless_clips(tmp_path, capsys):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)
    add_clip(tmp_path, "good", noise)
    add_clip(tmp_path, "twin", noise)
    add_clip(tmp_path, "short", noise[3:9])
    add_clip(tmp_path, "still", np.repeat(noise[:1] // 2, 16, axis=0))
    add_clip(tmp_path, "mute", noise[::-1], None)
    (tmp_path / "videos/bad.mp4").write_bytes(b"not a video")
    (tmp_path / "captions/bad.txt").write_text("x")
    main(parse_args(["--check", str(tmp_path), "--frame_size", "32"]))
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "dataset_report.json").read_text())
    findings = report["findings"]
    assert report["ok"] == 3 and report["videos"] == 6
    assert findings["no caption"] == ["mute.mp4"] and findings["fewer than 16 frames"] == ["short.mp4"]
    assert findings["static: nothing moves"] == ["still.mp4"] and report["duplicates"] == [["good.mp4", "twin.mp4"]]
    assert ["bad.mp4"] in findings.values()
    assert all(f"{name}.mp4" in said for name in ("bad", "short", "still", "twin", "mute"))
    assert cv2.imread(str(tmp_path / "dataset_report.png")) is not None


def test_check_lists_a_wrong_encoding_instead_of_stopping(tmp_path, capsys):
    add_clip(tmp_path, "a", ramp(16))
    add_clip(tmp_path, "b", ramp(17), "狗".encode("gb18030"))
    main(parse_args(["--check", str(tmp_path)]))
    assert "--caption_encoding gb18030" in capsys.readouterr().out


def test_a_small_object_is_no_static_clip_and_camera_noise_is(tmp_path, capsys):
    """By the mean of differences it was the other way round."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.normal(size=(192, 256, 3)), (0, 0), 6)
    texture = 128 + 25 * texture / texture.std()
    small, still = (np.repeat(texture[None], 16, axis=0) for _ in range(2))
    for n, frame in enumerate(small):
        frame[90:106, 40 + 5 * n : 56 + 5 * n] = (220, 30, 30)
    for name, clip in (("small", small), ("still", still + rng.normal(0, 3, still.shape))):
        add_clip(tmp_path, name, clip.clip(0, 255).astype(np.uint8), fps=10)
    main(parse_args(["--check", str(tmp_path)]))
    assert "1 x static: nothing moves: still.mp4" in capsys.readouterr().out
