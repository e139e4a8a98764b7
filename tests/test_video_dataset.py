"""Demo dataset, dataset class and data check, end to end on small files."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import video_dataset
from utils.cli import Parser, UserError
from utils.data import clip_index, shapes
from utils.data.captions import read_caption, swap_left_right
from utils.data.errors import CaptionError
from utils.data.find_videos import find_videos
from utils.video.decode import VideoInfo, probe_video, read_frames
from utils.video.encode import write_video
from utils.video.frame_windows import window
from video_dataset import TextVideoDataset, main, parse_args

DEMO = ["--num_clips", "12", "--num_frames", "8", "--frame_size", "32"]
TREE = Path(video_dataset.__file__).parent


def demo(folder: Path, *flags: str) -> Path:
    main(parse_args(["--output_dir", str(folder), *DEMO, *flags]))
    return folder


def add_clip(
    folder: Path, name: str, frames: np.ndarray, caption: str | bytes | None = "a clip", fps: float = 8
) -> Path:
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "captions").mkdir(exist_ok=True)
    path = folder / "videos" / f"{name}.mp4"
    write_video(path, frames, fps)
    if caption is not None:
        data = caption if isinstance(caption, bytes) else caption.encode()
        (folder / "captions" / f"{name}.txt").write_bytes(data)
    return path


def ramp(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Frame n is uniformly of level 10 n, so a decoded frame tells its number."""
    levels = (10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbers(video: torch.Tensor) -> list[int]:
    """The frame numbers of a normalised ramp clip."""
    return ((video.mean(dim=(0, 2, 3)) + 1) * 12.75).round().int().tolist()


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("data") / "demo")


def load(folder, **settings) -> TextVideoDataset:
    return TextVideoDataset(folder, **{"num_frames": 8, "frame_size": 32} | settings)


# ---- demo dataset


def test_no_arguments_write_the_documented_tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = parse_args([])
    assert (args.output_dir, args.num_clips, args.num_frames) == (Path("demo_video_data"), 1500, 16)
    folder = demo(args.output_dir)
    videos = find_videos(folder / "videos")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert len(videos) == len(rows) == 12
    for path, row in zip(videos, rows, strict=True):
        info = probe_video(path)
        assert (info.frames, info.width, info.height, info.fps) == (8, 32, 32, 8)
        assert (folder / "captions" / f"{path.stem}.txt").read_text().strip() == row["caption"]
        assert row["file"] == f"videos/{path.name}" and row["form"] in range(len(shapes.TRAIN_FORMS))
        assert np.shape(row["objects"][0]["path"]) == (8, 2)
    for name in ("seen_prompts.txt", "heldout_prompts.txt"):
        assert len((folder / name).read_text().splitlines()) == 48


def test_metadata_says_where_the_object_is(demo_dir):
    for line in (demo_dir / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        info = probe_video(demo_dir / row["file"])
        thing = row["objects"][0]
        for t, frame in enumerate(read_frames(info, range(8))):
            near = np.linalg.norm(frame.astype(float) - thing["rgb"], axis=-1) < 90
            y, x = np.argwhere(near).mean(axis=0) + 0.5
            assert np.hypot(x - thing["path"][t][0], y - thing["path"][t][1]) < 1.5


def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(demo_dir, tmp_path):
    def contents(folder):
        return {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."
        }

    again, other = demo(tmp_path / "again"), demo(tmp_path / "other", "--seed", "1")
    assert contents(demo_dir) == contents(again)
    assert contents(again)["videos/clip_00000.mp4"] != contents(other)["videos/clip_00000.mp4"]


def test_finished_dataset_is_left_alone_and_other_settings_need_overwrite(tmp_path, capsys):
    folder = demo(tmp_path / "demo")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    demo(folder)
    assert "left alone" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    args = ["--output_dir", str(folder), *DEMO, "--num_clips", "5"]
    with pytest.raises(UserError, match="num_clips 12 -> 5.*--overwrite"):
        main(parse_args(args))
    main(parse_args([*args, "--overwrite"]))
    assert len(list((folder / "videos").iterdir())) == len(list((folder / "captions").iterdir())) == 5


def test_half_written_dataset_is_completed_and_foreign_files_are_refused(tmp_path):
    folder = demo(tmp_path / "demo")
    whole = (folder / "videos/clip_00003.mp4").read_bytes()
    (folder / "dataset.json").unlink()
    (folder / "videos/clip_00003.mp4").write_bytes(b"half")
    demo(folder)
    assert (folder / "videos/clip_00003.mp4").read_bytes() == whole
    (folder / "videos/holiday.mp4").write_bytes(b"mine")
    with pytest.raises(UserError, match="holiday.mp4"):
        main(parse_args(["--output_dir", str(folder), *DEMO, "--overwrite"]))
    assert (folder / "videos/holiday.mp4").read_bytes() == b"mine"


def test_all_bad_flags_are_reported_together(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(["--num_clips", "0", "--num_frames", "1_0", "--frame_size", "33", "--fps", "nan", "--seed", "-1"])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 5
    assert all(": error: --" in line and "must be" in line for line in lines)


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys, video_dataset\ntry: video_dataset.parse_args(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'cv2', 'av'} & set(sys.modules)))"
    )
    times = []
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=TREE, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.5  # about 0.2 s when the machine is idle


# ---- samples


def test_sample_has_the_documented_shape_range_and_types(demo_dir):
    dataset = load(demo_dir, frame_size=(32, 24))
    sample = dataset[3]
    assert len(dataset) == 12 and dataset.captions()[3].split() == dataset.items[3][1].split()
    assert sample["video"].shape == (3, 8, 32, 24) and sample["video"].dtype == torch.float32
    assert -1 <= sample["video"].min() < -0.5 and sample["video"].max() <= 1
    assert sample["index"] == 3 and sample["path"].endswith("clip_00003.mp4") and isinstance(sample["text"], str)
    assert load(demo_dir, normalize=False)[3]["video"].min() >= 0
    assert load(demo_dir, width=48)[0]["video"].shape == (3, 8, 32, 48)
    with pytest.raises(IndexError):
        dataset[12]
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    assert batch["video"].shape == (4, 3, 8, 32, 24) and len(batch["text"]) == 4


@pytest.mark.parametrize("level, normalised, plain", [(0, -1.0, 0.0), (255, 1.0, 1.0)])
def test_black_and_white_map_to_the_ends_exactly(tmp_path, level, normalised, plain):
    add_clip(tmp_path, "a", np.full((8, 32, 32, 3), level, np.uint8))
    assert (load(tmp_path)[0]["video"] == normalised).all()
    assert (load(tmp_path, normalize=False)[0]["video"] == plain).all()


def test_random_choices_depend_on_seed_epoch_index_only(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcd":
        add_clip(tmp_path, name, rng.integers(0, 255, (20, 32, 48, 3), dtype=np.uint8), "a dog runs left")
    dataset, keys = load(tmp_path), [(epoch, i) for epoch in range(3) for i in range(4)]
    once = [dataset[key] for key in keys]
    np.random.seed(5)
    torch.manual_seed(5)
    backwards = [load(tmp_path, cache_bytes=0)[key] for key in reversed(keys)][::-1]
    loaded = [
        [
            s
            for batch in torch.utils.data.DataLoader(dataset, sampler=keys, batch_size=None, num_workers=n)
            for s in [batch]
        ]
        for n in (0, 2)
    ]
    for others in (backwards, *loaded):
        for sample, other in zip(once, others, strict=True):
            assert torch.equal(sample["video"], other["video"]) and sample["text"] == other["text"]
    different = {sample["video"].numpy().tobytes() for sample in once}
    assert len(different) == len(keys)
    assert not torch.equal(load(tmp_path, seed=1)[0]["video"], once[0]["video"])
    assert torch.equal(dataset[0]["video"], dataset[(0, 0)]["video"])


def test_cache_changes_nothing_and_stays_within_its_bytes(demo_dir):
    one = 8 * 32 * 32 * 3
    cached, bare = load(demo_dir, cache_bytes=5 * one), load(demo_dir, cache_bytes=0)
    for epoch in range(2):
        for i in range(12):
            assert torch.equal(cached[(epoch, i)]["video"], bare[(epoch, i)]["video"])
    assert len(cached.cache) == 5 and cached.cached_bytes == 5 * one and not bare.cache
    assert pickle.loads(pickle.dumps(cached)).cache == {}


def test_a_hook_that_writes_into_its_frames_does_not_reach_the_cache(demo_dir):
    class Blackened(TextVideoDataset):
        def augment_video(self, frames):
            frames[:] = 0
            return frames

    dataset = Blackened(demo_dir, 8, 32)
    assert all(dataset[(epoch, 0)]["video"].max() == -1 for epoch in range(6))  # mirrored and not
    assert dataset.cache[0].max() > 100


def test_training_varies_the_window_and_the_crop_and_validation_does_not(tmp_path):
    frames = ramp(20, 32, 64)
    frames[:, :, :32] = 255 - frames[:, :, :32]
    for name in "abc":
        add_clip(tmp_path, name, frames)
    train, val = load(tmp_path, split="train"), load(tmp_path, split="val")
    assert len({train[(epoch, 0)]["video"].numpy().tobytes() for epoch in range(8)}) > 5
    for fixed in (val, load(tmp_path, augment=False)):
        assert all(torch.equal(fixed[(epoch, 0)]["video"], fixed[0]["video"]) for epoch in range(4))
    video = val[0]["video"]
    assert numbers(video[..., 18:]) == list(range(6, 14))  # the middle window
    assert torch.allclose(video[:, :, :, :14].mean(), -video[:, :, :, 18:].mean(), atol=0.05)  # the centre crop


# ---- time


@pytest.mark.parametrize(
    "target_fps, expected",
    [(None, [0, 1, 2, 3]), (8, [0, 1, 2, 3]), (4, [0, 2, 4, 6]), (16, [0, 0, 1, 1]), (3, [0, 3, 5, 8])],
)
def test_frames_are_chosen_by_time(target_fps, expected):
    info = VideoInfo("x", 12, 8.0, 32, 32, "h264", "opencv")
    assert window(info, 4, target_fps, "skip", 0.0).tolist() == expected


def test_variable_frame_rate_is_sampled_by_time():
    times = (0.0, 0.1, 0.2, 0.3, 1.3, 2.3, 3.3)
    info = VideoInfo("x", 7, 2.0, 32, 32, "h264", "opencv", times=times)
    assert window(info, 4, 1.0, "skip", 0.0).tolist() == [0, 4, 5, 6]
    assert window(info, 4, None, "skip", 0.0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("target_fps", [None, 8, 4, 16])
def test_windows_never_cross_a_gap(target_fps):
    info = VideoInfo("x", 40, 8.0, 32, 32, "h264", "opencv", gaps=(5, 21))
    seen = set()
    for position in np.linspace(0, 0.999, 200):
        chosen = window(info, 6, target_fps, "skip", position)
        assert len(chosen) == 6 and (np.diff(chosen) >= 0).all() and chosen[0] >= 0 and chosen[-1] < 40
        assert all(not chosen[0] < gap <= chosen[-1] for gap in info.gaps)
        seen |= set(chosen.tolist())
    assert 39 in seen and 5 in seen and 20 in seen  # every allowed start is used


def test_exactly_enough_frames_are_enough_and_short_clips_follow_the_policy(tmp_path, capsys):
    add_clip(tmp_path, "exact", ramp(8))
    add_clip(tmp_path, "short", ramp(5))
    skip = load(tmp_path, augment=False)
    assert [numbers(sample["video"]) for sample in skip] == [list(range(8))]
    assert skip.report["skipped"] == {"fewer than 8 frames": ["short.mp4"]}
    assert "short.mp4" in capsys.readouterr().err
    assert numbers(load(tmp_path, augment=False, short_clips="pad")[1]["video"]) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert numbers(load(tmp_path, augment=False, short_clips="loop")[1]["video"]) == [0, 1, 2, 3, 4, 0, 1, 2]
    assert numbers(load(tmp_path, augment=False, short_clips="loop", cache_bytes=0)[1]["video"])[5:] == [0, 1, 2]
    with pytest.raises(ValueError, match="--num_frames .the longest has 8"):
        load(tmp_path, num_frames=9)


# ---- captions and augmentation


def test_augmentation_never_makes_a_caption_false(tmp_path):
    """Follow the object in the pixels: whatever the caption says about left and right must be what happens."""
    folder = demo(tmp_path / "demo", "--num_clips", "24")
    dataset, turned = load(folder), 0
    for epoch in range(6):
        for i in range(len(dataset)):
            sample = dataset[(epoch, i)]
            bright = (sample["video"].amax(dim=0) > -0.3).float()
            x = (bright * torch.arange(32)).sum(dim=(1, 2)) / bright.sum(dim=(1, 2))
            drift = (x[-1] - x[0]).item()
            said = {"left": drift < -3, "right": drift > 3}
            assert all(true for word, true in said.items() if word in sample["text"].split())
            assert ("left" in sample["text"]) + ("right" in sample["text"]) == (abs(drift) > 3)
            turned += sample["text"] != dataset.captions()[i]
    assert turned > 10


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


def test_every_demo_caption_can_be_mirrored_and_back():
    for plan in shapes.plan_clips(300, 0, hard=True):
        form, rng = shapes.TRAIN_FORMS[plan["form"]], np.random.default_rng(0)
        caption = shapes.describe_clip(plan["attributes"], form, rng)
        assert swap_left_right(swap_left_right(caption)) == caption


def test_hooks_are_called_in_training_only_and_may_use_rng(demo_dir):
    class CustomVideoDataset(TextVideoDataset):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.calls = []

        def augment_text(self, text):
            self.calls.append(text)
            return f"{text}, take {self.rng.integers(1000)}"

        def augment_video(self, frames):
            self.calls.append((frames.shape, frames.dtype))
            return 255 - frames

    dataset = CustomVideoDataset(demo_dir, num_frames=8, frame_size=32)
    sample = dataset[(1, 2)]
    assert sorted(map(type, dataset.calls), key=str) == [str, tuple] and ((8, 32, 32, 3), np.uint8) in dataset.calls
    assert ", take " in sample["text"] and sample["text"] == dataset[(1, 2)]["text"]
    assert sample["video"].mean() > 0.3
    for settings in ({"augment": False}, {"split": "val"}):
        quiet = CustomVideoDataset(demo_dir, num_frames=8, frame_size=32, **settings)
        assert "take" not in quiet[0]["text"] and not quiet.calls


@pytest.mark.parametrize(
    "hook, result", [("augment_video", None), ("augment_video", np.zeros((8, 9, 9, 3), np.uint8)), ("augment_text", 3)]
)
def test_a_wrong_hook_is_named(demo_dir, hook, result):
    dataset = type("Mine", (TextVideoDataset,), {hook: lambda self, _: result})(demo_dir, 8, 32)
    with pytest.raises(ValueError, match=f"Mine.{hook}"):
        dataset[0]


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


# ---- what is in the folder


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
    from utils.video import decode

    for name in "ab":
        add_clip(tmp_path, name, ramp(8))
    longer = add_clip(tmp_path / "elsewhere", "b", ramp(9))
    probed = []
    real = decode.probe_video
    monkeypatch.setattr(decode, "probe_video", lambda path: probed.append(Path(path).name) or real(path))
    load(tmp_path)
    load(tmp_path)
    assert sorted(probed) == ["a.mp4", "b.mp4"]
    longer.replace(tmp_path / "videos/b.mp4")
    assert [info.frames for info, _ in load(tmp_path).items] == [8, 9] and probed[2:] == ["b.mp4"]
    for damage in (b"{", b"[]", b'{"version": 1, "videos": {"x": 3}}', b'{"version": 1, "videos": 7}', b"\xff"):
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
    video_dataset.add_data_args(parser)
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
    dataset = TextVideoDataset(**video_dataset.data_args(parser.parse_args(flags)))
    assert len(dataset) == 5 and not dataset.augment and dataset.cache_bytes == 512 * 2**20
    for bad in (["--num_frames", "0"], ["--target_fps", "nan"], ["--max_samples", "1_0"], ["--cache_mb", "-1"]):
        with pytest.raises(SystemExit):
            parser.parse_args([*flags, *bad])
        assert bad[0] in capsys.readouterr().err


# ---- data check


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
