"""Which clips of a folder are used, and why not the others."""

import json
import os
from pathlib import Path

import cv2
import pytest

from tests.data.folders import add_clip, load, ramp
from utils.arguments.data import add_data_args, data_args
from utils.cli import Parser, UserError
from utils.data import clip_index
from utils.data.find_clips import Clip
from video_dataset import TextVideoDataset, main, parse_args


def test_missing_and_empty_captions_follow_the_policy_by_name(tmp_path, capsys):
    for name, caption in (("good", "a dog"), ("none", None), ("blank", " \n"), ("huge", "a" * 70_000)):
        add_clip(tmp_path, name, ramp(8), caption)
    (tmp_path / "captions/lonely.txt").write_text("no clip")
    with pytest.raises(ValueError, match="no caption: none.mp4; 1 x empty caption: blank.mp4; .*--missing_caption"):
        load(tmp_path)
    assert load(tmp_path, missing_caption="skip").captions() == ["a dog"]
    said = capsys.readouterr().err
    assert all(name in said for name in ("none.mp4", "blank.mp4", "huge.mp4", "lonely.txt", "64 KB"))
    dataset = load(tmp_path, missing_caption="empty")
    assert dataset.captions() == ["", "a dog", ""]
    assert dataset.report["ok"] == 3 and dataset.report["captions_without_video"] == ["lonely.txt"]


def test_unusable_files_are_listed_and_cannot_drive_the_terminal(tmp_path, capsys):
    add_clip(tmp_path, "a", ramp(8))
    for name, data in (("empty.mp4", b""), ("text\x1b[2J.mp4", b"hello"), ("TAIL.MP4", b"\0\0\0\x18ftypmp42")):
        (tmp_path / "videos" / name).write_bytes(data)
        (tmp_path / "captions" / f"{name[:-4]}.txt").write_text("x")
    (tmp_path / "videos/broken.mkv").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "videos/pipe.mp4")
    for name in ("broken", "pipe"):
        (tmp_path / f"captions/{name}.txt").write_text("x")
    dataset = load(tmp_path)
    said = capsys.readouterr().err
    assert dataset.report["ok"] == 1 and sum(map(len, dataset.report["skipped"].values())) == 5
    assert "empty.mp4" in said and "broken.mkv" in said and "\x1b" not in said and "\\x1b[2J" in said


@pytest.mark.parametrize("what", ["no folder", "no videos folder", "no video", "nothing usable", "same stem"])
def test_a_folder_that_cannot_train_is_one_line_with_a_remedy(tmp_path, what):
    folder = tmp_path / "data"
    if what == "no videos folder":
        folder.mkdir()
    elif what == "no video":
        (folder / "videos").mkdir(parents=True)
    elif what != "no folder":
        add_clip(folder, "a", ramp(8))
        other = "a.mov" if what == "same stem" else "a.mp4"
        (folder / "videos" / other).write_bytes(b"")
    with pytest.raises((FileNotFoundError, ValueError)) as stop:
        load(folder)
    message = str(stop.value)
    assert "\n" not in message and str(folder) in message
    assert what != "same stem" or ("a.mp4" in message and "a.mov" in message)
    with pytest.raises(UserError):
        main(parse_args(["--check", str(folder)]))


@pytest.mark.parametrize("name", ["B.MKV", "c.webm", "d.avi"])
def test_every_container_in_any_case_is_read(tmp_path, name):
    add_clip(tmp_path, "a", ramp(8))
    path = tmp_path / "videos" / name
    fourcc = {"webm": "VP80"}.get(name[2:], "MJPG")
    writer = cv2.VideoWriter(str(tmp_path / f"x{path.suffix.lower()}"), cv2.VideoWriter_fourcc(*fourcc), 8, (32, 32))
    for frame in ramp(8):
        writer.write(frame)
    writer.release()
    (tmp_path / f"x{path.suffix.lower()}").rename(path)
    (tmp_path / "captions" / f"{path.stem}.txt").write_text("other")
    assert load(tmp_path).report["ok"] == 2


def test_index_probes_a_file_once_and_again_when_it_changes(tmp_path, monkeypatch):
    from utils.decoding import probe

    for name in "ab":
        add_clip(tmp_path, name, ramp(8))
    longer = add_clip(tmp_path / "elsewhere", "b", ramp(9))
    probed = []
    real = probe.probe_video
    monkeypatch.setattr(probe, "probe_video", lambda path, **how: probed.append(Path(path).name) or real(path, **how))
    load(tmp_path)
    load(tmp_path)
    assert sorted(probed) == ["a.mp4", "b.mp4"]
    longer.replace(tmp_path / "videos/b.mp4")
    assert [info.frames for info, _ in load(tmp_path).items] == [8, 9] and probed[2:] == ["b.mp4"]
    for damage in (b"{", b"[]", b'{"version": 2, "videos": {"x": 3}}', b'{"version": 2, "videos": 7}', b"\xff"):
        (tmp_path / ".video_index.json").write_bytes(damage)
        assert len(load(tmp_path)) == 2


def test_index_works_in_a_folder_it_cannot_write(tmp_path, monkeypatch):
    add_clip(tmp_path, "a", ramp(8))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(clip_index, "write_text", refuse)
    assert len(load(tmp_path)) == 1 and not (tmp_path / ".video_index.json").exists()


def test_split_is_fixed_disjoint_and_complete(demo_dir):
    parts = {}
    for seed in range(5):
        train, val = (load(demo_dir, split=split, val_fraction=0.25, seed=seed) for split in ("train", "val"))
        names = [[info.path for info, _ in part.items] for part in (train, val)]
        assert len(names[1]) == 3 and len(set(names[0]) | set(names[1])) == 12
        assert names[1] == [info.path for info, _ in load(demo_dir, split="val", val_fraction=0.25, seed=seed).items]
        parts[tuple(names[1])] = seed
    assert len(parts) > 1


def test_tiny_datasets_still_validate(demo_dir, capsys):
    three = [load(demo_dir, max_samples=3, split=split) for split in ("all", "train", "val")]
    assert [len(part) for part in three] == [3, 2, 1]
    assert [Path(info.path).name for info, _ in three[0].items] == [f"clip_0000{i}.mp4" for i in range(3)]
    assert "warning" not in capsys.readouterr().err
    one = [load(demo_dir, max_samples=1, split=split)[0]["path"] for split in ("train", "val")]
    assert one[0] == one[1] and "only one clip" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        *({"max_samples": 0}, {"split": "test"}, {"val_fraction": 1.0}, {"target_fps": 0}, {"resize_mode": "zoom"}),
        *({"short_clips": "drop"}, {"missing_caption": "guess"}, {"num_frames": 0}, {"frame_size": 0}),
    ],
)
def test_bad_arguments_are_named(demo_dir, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        load(demo_dir, **settings)


def test_a_clip_that_vanishes_after_indexing_is_named(tmp_path):
    path = add_clip(tmp_path, "a", ramp(8))
    dataset = load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="a.mp4"):
        dataset[0]


def test_data_flags_build_the_dataset(demo_dir, capsys):
    parser = Parser()
    add_data_args(parser)
    flags = [
        "--data_dir",
        str(demo_dir),
        "--num_frames",
        "8",
        "--frame_size",
        "32",
        "--max_samples",
        "5",
        "--no-augment",
    ]
    dataset = TextVideoDataset(**data_args(parser.parse_args(flags)))
    assert len(dataset) == 5 and not dataset.augment and dataset.cache_bytes == 512 * 2**20
    for bad in (["--num_frames", "0"], ["--target_fps", "nan"], ["--max_samples", "1_0"], ["--cache_mb", "-1"]):
        with pytest.raises(SystemExit):
            parser.parse_args([*flags, *bad])
        assert bad[0] in capsys.readouterr().err


def test_an_index_is_saved_on_the_way_so_that_a_killed_pass_is_not_in_vain(tmp_path, monkeypatch):
    for name in "abc":
        add_clip(tmp_path, name, ramp(8))
    monkeypatch.setattr(clip_index, "SAVE_EVERY_S", 0)
    monkeypatch.setattr(clip_index.os, "cpu_count", lambda: 1)
    clips = [Clip(path, ("a clip",)) for path in sorted((tmp_path / "videos").iterdir())] * 8  # two chunks of 16
    results = clip_index.probe_all(tmp_path, clips)
    for _ in range(17):
        next(results)
    assert len(json.loads((tmp_path / ".video_index.json").read_text())["videos"]) == 3  # and it never came to an end
