"""Windows of frames to train SVD on."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.svd.running import FRAMES
from utils.cli import UserError
from utils.frame_folders.frame_clips import FrameClips, find_frame_folders
from utils.motion.score import MOTION_MEASURE


def test_every_window_can_be_drawn_and_holds_consecutive_frames(dataset):
    clips, skipped = find_frame_folders(dataset, FRAMES, 1, 7.0, "quantile")
    assert len(clips) == 6 and not skipped
    assert clips[0].fps == 8 and all(clip.motion_score > 0.01 for clip in clips)
    samples = FrameClips(clips, FRAMES, 64, 64)
    frames = torch.stack([samples.__getitem__((0, 0))["frames"]])
    assert frames.shape == (1, FRAMES, 3, 64, 64) and frames.abs().max() <= 1
    whole = FrameClips(clips, 7, 64, 64)[0]["frames"]
    starts = set()
    for epoch in range(60):
        drawn = samples[(epoch, 0)]["frames"]
        matches = [s for s in range(4) if torch.equal(drawn, whole[s : s + FRAMES])]
        assert len(matches) == 1
        starts |= set(matches)
    assert starts == {0, 1, 2, 3}


def test_a_stride_halves_the_frame_rate_the_network_is_told(dataset):
    clips, _ = find_frame_folders(dataset, FRAMES, 2, 7.0, "quantile")
    item = FrameClips(clips, FRAMES, 64, 64, frame_stride=2)[0]
    whole = FrameClips(clips, 7, 64, 64)[0]["frames"]
    assert item["fps"] == 4 and torch.equal(item["frames"], whole[::2])


def test_motion_buckets_are_the_manifests_unless_a_flag_says_otherwise(dataset):
    rows = [json.loads(line) for line in (dataset / "manifest.jsonl").read_text().splitlines()]
    expected = {row["folder"]: row["motion_bucket_id"] for row in rows}
    clips, _ = find_frame_folders(dataset, FRAMES, 1, 7.0, None)
    assert {clip.folder.name: clip.motion_bucket_id for clip in clips} == expected and len(set(expected.values())) > 3
    clips, _ = find_frame_folders(dataset, FRAMES, 1, 7.0, "const")
    assert {clip.motion_bucket_id for clip in clips} == {127}


def of_measure_1(dataset, folder, count):
    """A copy of the dataset whose first `count` rows were written before measures of motion had numbers."""
    shutil.copytree(dataset, folder)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for row in rows[:count]:
        del row["motion_measure"]
        row |= {"motion_score": 9.0, "motion_bucket_id": 7}
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_scores_of_an_older_measure_are_believed_alone_and_never_mixed(dataset, tmp_path):
    clips, _ = find_frame_folders(of_measure_1(dataset, tmp_path / "old", 6), FRAMES, 1, 7.0, None)
    assert {(clip.motion_measure, clip.motion_score, clip.motion_bucket_id) for clip in clips} == {(1, 9.0, 7)}
    clips, _ = find_frame_folders(of_measure_1(dataset, tmp_path / "mixed", 2), FRAMES, 1, 7.0, None)
    new, _ = find_frame_folders(dataset, FRAMES, 1, 7.0, None)
    for mixed, clip in zip(clips, new, strict=True):
        assert mixed.motion_measure == clip.motion_measure == MOTION_MEASURE
        assert mixed.motion_score == pytest.approx(clip.motion_score, abs=1e-5)
        assert mixed.motion_bucket_id == clip.motion_bucket_id


def test_folders_without_a_manifest_train_and_frames_are_in_natural_order(tmp_path):
    for name in ("b10", "b2"):
        (tmp_path / name).mkdir()
        for n in (1, 2, 10):
            image = np.full((64, 64, 3), 20 * n if name == "b2" else 100, np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"frame{n}.png")
    (tmp_path / "b2" / ".DS_Store").write_bytes(b"x")
    clips, _ = find_frame_folders(tmp_path, 3, 1, 7.0, "quantile")
    assert [clip.folder.name for clip in clips] == ["b2", "b10"]
    assert clips[0].files == ("frame1.png", "frame2.png", "frame10.png") and clips[0].fps == 7


def test_short_clips_are_named_and_none_left_is_an_error(dataset):
    with pytest.raises(UserError, match=r"--dataset_dir: .*fewer than 9 frames.*video_0001 \(7\)"):
        find_frame_folders(dataset, 9, 1, 7.0, "quantile")
