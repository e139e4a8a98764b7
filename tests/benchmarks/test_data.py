"""The benchmarks of data and start-up on tiny settings, and that what made the data faster changed none of it."""

import builtins
import io
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from benchmarks import measure
from benchmarks.data import loading, motion, per_core, prepare, reading, startup
from tests.clips import cut, damage, encode, moving_clip
from utils.decoding import probe, source
from utils.decoding.probe import probe_video
from utils.decoding.read import iter_frames, read_frames
from utils.frame_folders import clip_writer
from utils.frame_folders.clip_writer import write_clips
from utils.video import encode as encode_module
from utils.video.encode import write_image, write_video
from utils.video.frames import to_uint8
from video_dataset import TextVideoDataset

pytestmark = pytest.mark.benchmarks


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def run(benchmark: ModuleType, results: Path, flags: str) -> dict:
    """What the benchmark stores."""
    benchmark.main(benchmark.parse_args(flags.split()))
    name = "data" if benchmark is loading else benchmark.__name__.rpartition(".")[2]
    assert (results / f"{name}.png").stat().st_size > 5000
    return json.loads((results / f"{name}.json").read_text())


# Benchmarks -----------------------------------------------------------------------------------------------------------


def test_data_measures_both_sides_and_both_kinds_of_waiting(results, monkeypatch):
    rows = [
        {"step": 30, "train/steps_per_second": 10.0, "train/data_wait_share": 0.04},  # 3 s, 0.12 s of it waiting
        {"step": 40, "train/steps_per_second": 10.0, "train/data_wait_share": 0.0},  # 1 s
    ]
    monkeypatch.setattr(loading, "demo_waiting", lambda folder, steps: loading.logged_share(rows))
    monkeypatch.setattr(loading, "FILM_SIZE", (72, 128))
    flags = "--demo_clips 8 --film_clips 8 --film_seconds 1 --repeats 1 --later 1 --steps 3 --step_seconds 0.2"
    result = run(loading, results, flags)
    for both in result["windows_per_second"].values():
        for rate in both.values():
            assert rate["naive"] > 0 and rate["first_to_naive"] == pytest.approx(rate["first"] / rate["naive"], 0.05)
    demo, sleeping = result["waiting"].values()
    assert demo == {"share": 0.03, "seconds": 4.0, "met": False}
    assert sleeping["seconds"] > 0.6 and sleeping["met"] == (sleeping["share"] < loading.WAIT_GOAL)
    waited = sleeping["share"] * sleeping["seconds"]
    assert sleeping["first_batch_seconds"] - 0.01 <= waited < sleeping["seconds"] - 0.59


def test_what_a_core_delivers_is_counted_with_and_without_the_cache(results, monkeypatch, capsys):
    monkeypatch.setattr(per_core, "FILES", {"short": (64, 64, 2), "long": (64, 64, 12)})
    monkeypatch.setattr("video_dataset.DECODE_BYTES", 100 * 64 * 64 * 3)  # the long one is never kept
    per_core.main(per_core.parse_args(["--windows", "6"]))
    rows = json.loads((results / "per_core.json").read_text())["clips_per_core_and_second"]
    assert rows["short"]["cached"] > rows["short"]["read"] > rows["long"]["read"] > 0
    assert rows["long"]["cached"] is None and "| long |" in capsys.readouterr().out


def test_reading_is_compared_with_opencv_frame_for_frame(results, monkeypatch, capsys):
    monkeypatch.setattr(reading, "FILES", {"small": (64, 96, 12)})
    seen, opencv = [], reading.opencv
    monkeypatch.setattr(reading, "opencv", lambda *wanted: seen.append(wanted[1:]) or opencv(*wanted))
    reading.main(reading.parse_args(["--seconds", "2", "--windows", "2", "--repeats", "2"]))
    found = json.loads((results / "reading.json").read_text())["ours_to_opencv"]["small"]
    assert seen[:2] == [(0, 48)] * 2 and len(seen) == 2 + 2 * 2 and all(count == 16 for _, count in seen[2:])
    assert found.keys() == {"frames", "windows", "index"} and found["index"]["processor"] > 1
    assert "| small |" in capsys.readouterr().out


def test_motion_is_judged_against_motion_that_is_known(results, capsys):
    motion.main(motion.parse_args(["--quick"]))
    rows = json.loads((results / "motion.json").read_text())["measures"]
    old, new = rows["Farneback, 64 px (measure 1)"], rows["where the picture changes (measure 2)"]
    assert new["within"] == 1 > old["within"] and old["highest"][0] > 4 and new["pan_error"] < 0.1
    assert new["still_called_static"] == 1 and new["moving_called_static"] == 0
    assert len(rows) == 7 and "| where the picture changes (measure 2) | 100% |" in capsys.readouterr().out


def test_the_naive_reader_gives_the_samples_that_training_wants(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "FILM_SIZE", (64, 64))
    loading.write_film(tmp_path, 2, 1)
    ours = TextVideoDataset(tmp_path, 16, 64, augment=False)
    naive = loading.NaiveReader(tmp_path, 16, 64)
    assert len(naive) == len(ours) == 2 and naive[(0, 1)]["text"] == ours[1]["text"] == "film 1"
    first = np.random.default_rng((0, 1)).integers(24 - 16 + 1)
    frames = read_frames(ours.items[1][0], range(first, first + 16))
    assert np.array_equal(to_uint8(naive[(0, 1)]["video"]), frames)


def test_prepare_compares_frames_and_costs(results):
    result = run(prepare, results, "--videos 2 --frames 8 --size 64x36 --repeats 1 --num_workers 0")
    assert result["settings"]["frames"] == 8 and list(result["sizes"]) == ["640x360, unchanged", "resized to 64x36"]
    for row in result["sizes"].values():
        assert (row["frames"]["count"], row["frames"]["different"], row["frames"]["largest"]) == (16, 0, 0)
        rates = [row[side]["frames_per_second"] for side in ("ours", "plain")]
        assert row["ratio"] == pytest.approx(rates[0] / rates[1], rel=0.1) and row["met"] == (row["ratio"] >= 1.5)
        cost = [row[side]["processor_ms_per_frame"] for side in ("ours", "plain")]
        assert row["processor_ratio"] == pytest.approx(cost[0] / cost[1], rel=0.01)


def test_differences_between_frames_are_found(tmp_path):
    for side, folder, level in (("plain", "a.mp4", 10), ("ours", "video_0001", 13)):
        for n in range(2):
            write_image(tmp_path / side / folder / f"{n}.png", np.full((8, 8, 3), level if n else 5, np.uint8))
    found = prepare.differences(tmp_path / "plain", tmp_path / "ours")
    assert (found["count"], found["different"], found["largest"]) == (2, 1, 3)


@pytest.mark.benchmarks
def test_startup_times_every_script_and_the_way_to_the_first_step(results, monkeypatch):
    log = "import time:      5000 |      90000 |   torch.nn\nimport time:  1000000 |    2000000 | torch\n"
    monkeypatch.setattr(startup, "import_times", lambda command: startup.packages(log))
    result = run(startup, results, "--help_repeats 1 --step_repeats 1 --clips 8 --preset tiny")
    scripts = {path.name for path in startup.ROOT.glob("*.py")}
    assert scripts and set(result["help"]) == scripts | {"python -c pass"}
    for row in result["help"].values():
        assert row["processor_seconds"] > 0 and row["met"] == (row["seconds"] < startup.HELP_GOAL)
    step = result["first_step"]
    assert step["seconds"] == pytest.approx(sum(step["stages"].values()), abs=0.02) and step["first_time"] > 1
    assert len(step["stages"]) == 3 and min(step["stages"].values()) > 0
    assert step["imports"] == {"torch": 1.0, "others": 0.0}


def test_packages_count_their_own_modules_alone():
    lines = [f"import time: {1000 * n:9} | {9_000_000:9} | {'  ' * n}p{n}.module" for n in range(1, 31)]
    found = startup.packages("\n".join(["import time: self [us] | cumulative | imported package", *lines]))
    assert list(found) == [*(f"p{n}" for n in range(30, 30 - startup.PACKAGES, -1)), "others"]
    assert found["p30"] == 0.03 and sum(found.values()) == pytest.approx(0.465, abs=0.05)


# Pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_disk_that_gives_back_something_else_is_noticed(tmp_path, monkeypatch, name):
    class Forgetful(io.FileIO):
        def read(self, *args) -> bytes:
            return super().read(*args)[:-1] + b"?"

    def forgetful(path, mode):
        return Forgetful(path, mode) if "partial" in str(path) else builtins.open(path, mode)

    monkeypatch.setattr(encode_module, "open", forgetful, raising=False)
    with pytest.raises(OSError, match="read back"):
        write_image(tmp_path / name, moving_clip(1)[0])
    assert not list(tmp_path.iterdir())


# One decoding where the packets are right -----------------------------------------------------------------------------

WHOLE = {"max_frames": None, "min_frames": 2, "target_fps": None, "frame_stride": 1, "size": None, "keep": []}
WHOLE |= {"resize_mode": "crop", "format": "png", "scenes": False}


def written(video: Path, folder: Path, **settings) -> tuple[dict, dict[str, bytes]]:
    rows = write_clips(video, "video", folder, WHOLE | settings)
    return rows, {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "settings", [{}, {"max_frames": 9}, {"frame_stride": 3}, {"target_fps": 4}, {"size": "32x24"}, {"min_frames": 99}]
)
def test_counting_packets_saves_a_decoding_and_changes_nothing(tmp_path, monkeypatch, settings):
    video = encode(tmp_path / "a.mp4", moving_clip(30, 48, 64))
    monkeypatch.setattr(clip_writer, "probe_video", lambda path, decode=True: probe_video(path))
    twice = written(video, tmp_path / "twice", **settings)
    monkeypatch.undo()
    scans = []
    monkeypatch.setattr(probe.Scan, "decoded", lambda self: scans.append(self))
    assert written(video, tmp_path / "once", **settings) == twice and not scans


@pytest.mark.parametrize("fault", ["cut", "damaged", "variable"])
def test_a_wrong_count_leaves_no_frame_of_its_own(tmp_path, monkeypatch, fault):
    ticks = [40 * n + 300 * (n > 20) for n in range(32)] if fault == "variable" else None
    options = {"bf": "0", "g": "10"}
    faststart = {"movflags": "+faststart"}
    video = encode(tmp_path / "a.mp4", moving_clip(32), options=options, container=faststart, ticks=ticks)
    if fault != "variable":
        video = cut(video, 0.6) if fault == "cut" else damage(video, 21)
    again = []

    def counted(info, indices, look):
        again.append(info)
        return iter_frames(info, indices, look)

    monkeypatch.setattr(clip_writer, "iter_frames", counted)
    rows, files = written(video, tmp_path / "out")
    info = probe_video(video)
    assert replace(again[-1], verified=True) == info and len(again) == 1 + (fault == "damaged")
    assert rows["video"]["frames"] == len(files) - 1 <= info.frames
    frames = read_frames(info, range(rows["video"]["first_frame"], rows["video"]["last_frame"] + 1))
    for n, frame in enumerate(frames):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "video" / f"{n:05d}.png")), frame)


def test_a_rejected_clip_keeps_no_picture_of_a_wrong_count(tmp_path):
    video = damage(encode(tmp_path / "a.mp4", moving_clip(13), options={"bf": "0", "g": "1"}), 6)  # 6 frames, then 6
    rows, files = written(video, tmp_path / "out", min_frames=8, max_frames=8)
    assert probe_video(video).gaps == (6,)
    assert rows["video"]["rejected"].startswith("fewer than") and not files


# Threads and the cache ------------------------------------------------------------------------------------------------


def test_small_files_are_decoded_by_one_thread_and_to_the_same_frames(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", moving_clip(90), options={"g": "30", "bf": "2"})
    info, found = probe_video(path), []
    for limit, threads in ((0, 0), (2**30, 1)):
        monkeypatch.setattr(source, "SMALL_FILE", limit)
        assert probe_video(path) == info
        opened = source.Source(str(path))
        assert opened.decoder.thread_count == threads
        opened.close()
        found += [read_frames(info, range(90)), read_frames(info, range(70, 90))]  # from the start, and after a seek
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], found[3])
    assert np.array_equal(found[0][70:], found[1])


@pytest.fixture
def film(tmp_path) -> Path:
    """Three clips of 100 frames."""
    (tmp_path / "captions").mkdir()
    for n in range(3):
        write_video(tmp_path / "videos" / f"{n}.mp4", loading.moving_picture(100, 48, 80, seed=n), 24)
        (tmp_path / "captions" / f"{n}.txt").write_text("a film moving left")
    return tmp_path


def test_kept_clips_give_the_same_windows_bit_for_bit(film):
    keys = [(epoch, index) for epoch in range(6) for index in range(3)]
    for settings in ({}, {"target_fps": 6.0}, {"num_frames": 120, "short_clips": "loop"}):
        settings = {"num_frames": 16, "frame_size": 32} | settings
        always, never = TextVideoDataset(film, **settings), TextVideoDataset(film, **settings, cache_bytes=0)
        by_chance = TextVideoDataset(film, **settings)
        always.coin.random = lambda: 0.0
        for key in keys:
            samples = [dataset[key] for dataset in (always, never, by_chance)]
            assert all(samples[0]["video"].equal(sample["video"]) for sample in samples)
            assert len({sample["text"] for sample in samples}) == 1
        assert len(always.cache) == 3 and not never.cache


def test_a_window_keeps_its_clip_as_often_as_it_is_a_part_of_it(film):
    dataset = TextVideoDataset(film, 20, 32, augment=False)
    kept = 0
    for _ in range(300):
        dataset[0]
        kept += len(dataset.cache)
        dataset.cache, dataset.cached_bytes = {}, 0
    assert 35 <= kept <= 85  # 60 expected
    whole = TextVideoDataset(film, 100, 32, augment=False)
    whole.coin.random = lambda: 0.999
    assert whole[0] and list(whole.cache) == [0]


def test_a_part_of_a_clip_takes_no_memory_of_the_cache(film):
    dataset = TextVideoDataset(film, 16, 32)
    dataset.coin.random = lambda: 0.999
    for epoch in range(4):
        dataset[(epoch, 0)]
    assert not dataset.cache and dataset.cached_bytes == 0
    dataset.coin.random = lambda: 0.0
    dataset[(9, 0)]
    assert dataset.cached_bytes == dataset.cache[0].nbytes == 100 * 32 * 53 * 3
