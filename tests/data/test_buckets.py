"""Sizes as they come: height and width, buckets of shape and length, pictures as clips of one frame."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.folders import add_clip, load, numbers, ramp
from utils.arguments.buckets import Bucket, as_bucket, automatic_buckets, bucket
from utils.cli import Bad
from utils.data.errors import DataError
from video_dataset import main, parse_args

SHAPES = [(16, 32, 8), (32, 16, 8), (24, 24, 8), (16, 32, 4), (32, 16, 4)]


def wide(frames: int, height: int, width: int) -> np.ndarray:
    return np.repeat(np.repeat(ramp(frames), 4, axis=1), 4, axis=2)[:, :height, :width]


def add_picture(folder, name: str, height: int, width: int, colour="red") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(folder / f"{name}.png")


@pytest.fixture
def mixed(tmp_path):
    """Clips of 16:9, 9:16 and 1:1, of 12 and of 5 frames."""
    for n, (frames, height, width) in enumerate(
        [(12, 36, 64), (12, 64, 36), (12, 40, 40), (5, 36, 64), (5, 64, 36), (12, 36, 64), (3, 40, 40)]
    ):
        add_clip(tmp_path, f"clip{n}", wide(frames, height, width), f"clip {n}")
    return tmp_path


def test_each_clip_is_used_in_the_longest_bucket_it_fills_and_the_nearest_in_shape(mixed, capsys):
    dataset = load(mixed, buckets=SHAPES)
    shapes = [(16, 32, 8), (32, 16, 8), (24, 24, 8), (16, 32, 4), (32, 16, 4), (16, 32, 8)]
    assert [tuple(shape) for shape in dataset.shapes] == shapes
    for index, (height, width, frames) in enumerate(shapes):
        sample = dataset[index]
        assert sample["video"].shape == (3, frames, height, width) and sample["text"] == f"clip {index}"
    assert dataset.report["skipped"] == {"fewer than 4 frames": ["clip6.mp4"]}
    assert "buckets: 2 x 32x16x8, 1 x 16x32x8, 1 x 24x24x8, 1 x 32x16x4, 1 x 16x32x4" in capsys.readouterr().err
    assert sorted(index for clips, _ in dataset.groups() for index in clips) == list(range(6))
    for clips, share in dataset.groups():
        assert len({dataset.shapes[index] for index in clips}) == 1 and share == pytest.approx(len(clips) / 6)


def test_clips_too_short_for_every_bucket_follow_short_clips(mixed):
    dataset = load(mixed, buckets=SHAPES, short_clips="pad", augment=False)
    assert dataset[6]["video"].shape[1] == 4 and numbers(dataset[6]["video"]) == [0, 1, 2, 2]


def test_one_shape_is_one_group(mixed):
    dataset = load(mixed, num_frames=4, frame_size=(16, 24))
    assert dataset.groups() == [(list(range(6)), 1.0)] and dataset.report["buckets"] == {}
    assert dataset[0]["video"].shape == (3, 4, 16, 24)


def test_an_unreadable_clip_is_replaced_by_one_of_its_shape(mixed):
    dataset = load(mixed, buckets=SHAPES, max_bad_fraction=0.5)
    dataset.path(0).unlink()
    sample = dataset[0, 0]
    assert sample["index"] == 5 and "clip0" in sample["unreadable"]


def test_automatic_buckets_keep_the_pixels_and_the_multiple():
    found = automatic_buckets(64, 64, 16, 8)
    assert found[:3] == [Bucket(64, 64, 16), Bucket(64, 64, 8), Bucket(64, 64, 4)] and len(set(found)) == len(found)
    for height, width, frames in automatic_buckets(320, 512, 25, 32):
        assert height % 32 == width % 32 == 0 and 0.8 < height * width / (320 * 512) < 1.2 and frames in (25, 12, 6)
    ratios = {width / height for height, width, _ in automatic_buckets(512, 512, 16, 8)}
    assert min(ratios) == pytest.approx(0.5, rel=0.05) and max(ratios) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("text", ["64x64", "64x64x16x1", "4x64x16", "64X64X16", "64x64x0", "9999x64x16", "", "axbxc"])
def test_a_bucket_is_width_height_and_frames(text):
    assert isinstance(bucket(text), Bad)
    assert as_bucket(bucket("96x064x16")) == Bucket(height=64, width=96, frames=16)


# ------------------------------------------------------------------------------------------------ pictures


def test_pictures_with_captions_are_clips_of_one_frame_at_their_share(mixed):
    for n in range(3):
        add_picture(mixed / "images", f"picture{n}", 40, 40)
        (mixed / "captions" / f"picture{n}.txt").write_text(f"picture {n}")
    dataset = load(mixed, num_frames=4, image_share=0.25, augment=False)
    assert sorted(dataset.captions())[6:] == ["picture 0", "picture 1", "picture 2"]
    (videos, of_videos), (pictures, of_pictures) = sorted(dataset.groups(), key=lambda group: -group[1])
    assert (of_videos, of_pictures) == (0.75, 0.25) and (len(videos), len(pictures)) == (6, 3)
    for index in pictures:
        video = dataset[index]["video"]
        assert video.shape == (3, 1, 32, 32)
        assert (video[0] == 1).all() and (video[1:] == -1).all()  # red
    for split, count in (("train", 8), ("val", 1)):
        part = load(mixed, num_frames=4, image_share=0.25, split=split, val_fraction=0.2)
        assert len(part) == count and (split == "train" or "picture" not in part.captions()[0])
    assert load(mixed, num_frames=4, image_share=1).groups()[0][1] in (0, 1)


def test_pictures_are_left_out_unless_asked_for_and_it_is_said(mixed):
    add_picture(mixed / "videos", "with", 40, 40)
    add_picture(mixed / "videos", "without", 40, 40)  # no caption: some picture that lies about
    add_picture(mixed / "videos", "clip0", 40, 40)  # the preview of a video
    (mixed / "captions" / "with.txt").write_text("a picture")
    dataset = load(mixed, num_frames=4)
    assert len(dataset) == 6
    assert dataset.report["skipped"]["a picture; --image_share mixes pictures in"] == ["with.png"]
    assert dataset.report["skipped"]["pictures beside a video of the same name"] == ["clip0.png"]
    asked = load(mixed, num_frames=4, image_share=0.5)
    assert len(asked) == 7 and asked.report["skipped"]["pictures without a caption"] == ["without.png"]


def test_pictures_alone_are_a_dataset(tmp_path):
    for n in range(4):
        add_picture(tmp_path, f"p{n}", 20 + 20 * n, 40)
        (tmp_path / f"p{n}.txt").write_text(f"picture {n}")
    with pytest.raises(DataError, match="--image_share 1 trains on pictures"):
        load(tmp_path)
    dataset = load(tmp_path, image_share=1, buckets=SHAPES)
    assert [tuple(shape) for shape in dataset.shapes] == [(16, 32, 1), (24, 24, 1), (32, 16, 1), (32, 16, 1)]
    assert sum(share for _, share in dataset.groups()) == 1


def test_one_video_beside_pictures_trains_and_validates(tmp_path, capsys):
    add_clip(tmp_path, "a", ramp(8), "a clip")
    add_picture(tmp_path / "images", "picture", 40, 40)
    (tmp_path / "captions" / "picture.txt").write_text("a picture")
    train, val = (load(tmp_path, image_share=0.5, split=split) for split in ("train", "val"))
    assert sorted(train.captions()) == ["a clip", "a picture"] and val.captions() == ["a clip"]
    assert "only one clip" in capsys.readouterr().err


def test_a_share_of_pictures_without_pictures_is_refused(mixed):
    with pytest.raises(DataError, match="no picture has a caption"):
        load(mixed, num_frames=4, image_share=0.5)


# ------------------------------------------------------------------------------------------------ folders of pictures


def test_a_folder_of_pictures_with_a_caption_is_a_clip(tmp_path):
    add_clip(tmp_path, "a", ramp(8), "a video")
    for name in ("b", "c"):
        for n, frame in enumerate(ramp(10)):
            (tmp_path / "videos" / name).mkdir(exist_ok=True)
            Image.fromarray(frame).save(tmp_path / "videos" / name / f"{n}.png")
    (tmp_path / "captions" / "b.txt").write_text("a folder")
    dataset = load(tmp_path, num_frames=4, frames_fps=20, target_fps=10, augment=False)
    assert dataset.captions() == ["a video", "a folder"]
    assert dataset.report["skipped"] == {"pictures without a caption": ["c"]}
    assert numbers(dataset[1]["video"]) == [2, 4, 6, 8]  # of 20 a second every other one


def test_the_check_counts_buckets_and_pictures(mixed, capsys):
    add_picture(mixed / "images", "picture", 40, 40)
    (mixed / "captions" / "picture.txt").write_text("a picture")
    flags = ["--buckets", "32x16x8", "16x32x8", "16x32x4", "--image_share", "0.5", "--num_frames", "99"]
    main(parse_args(["--check", str(mixed), *flags]))
    said = capsys.readouterr().out
    assert "7 of 8 videos are usable" in said and "1 x fewer than 4 frames: clip6.mp4" in said
    counts = json.loads((mixed / "dataset_report.json").read_text())["buckets"]
    assert counts == {"32x16x8": 3, "16x32x4": 2, "16x32x8": 1, "32x16x1": 1} and "buckets: 3 x 32x16x8" in said
    assert (mixed / "dataset_report.png").exists()
