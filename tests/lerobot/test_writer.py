"""LeRobot datasets that are written: what comes in is what comes out, and meta tells the truth about it."""

import json

import numpy as np
import pytest
from pyarrow import parquet

from tests.lerobot.datasets import CAMERAS, FPS, LENGTHS, SIZES, frames_of, numbers_of, write_lerobot
from utils.data.clip_index import usable_clips
from utils.data.find_clips import FolderFormat
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.lerobot import writer as module
from utils.lerobot.folder import OF_THE_FORMAT, LeRobotError, LeRobotFolder
from utils.lerobot.writer import LeRobotWriter

ACTION = {"action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}}


def frames_in(root, camera: str) -> list[np.ndarray]:
    """The frames of each episode as training reads them."""
    items, _, _ = usable_clips(root, FolderFormat(cameras=[camera]), 1, None, "skip", "error", None)
    return [read_frames(info, range(info.frames)) for info, _ in items]


def columns_of(folder: LeRobotFolder) -> dict[str, list]:
    tables = [folder.rows(episode) for episode in folder.episodes.values()]
    return {name: [row for table in tables for row in table[name].to_pylist()] for name in tables[0].column_names}


def copied(source: LeRobotFolder, root) -> LeRobotFolder:
    """A dataset, read and written again."""
    out = LeRobotWriter(root, source.fps, source.features, "toy", list(source.tasks.values()))
    frames = {camera: frames_in(source.root, camera) for camera in source.cameras}
    for index, episode in reversed(source.episodes.items()):  # in whatever order
        rows = source.rows(episode)
        columns = {name: np.array(rows[name].to_pylist()) for name in rows.column_names if name not in OF_THE_FORMAT}
        tasks = [source.tasks[task] for task in rows["task_index"].to_pylist()]
        out.add(index, tasks, columns, {camera: each[index] for camera, each in frames.items()})
    assert out.finish() == len(source.episodes)
    return LeRobotFolder(root)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_every_column_and_every_frame_comes_back(version, tmp_path):
    source = LeRobotFolder(write_lerobot(tmp_path / "real", version))
    found = copied(source, tmp_path / "copy")
    before, after = columns_of(source), columns_of(found)
    assert before.keys() == after.keys() and all(before[name] == after[name] for name in before)
    assert found.tasks == source.tasks and [each.tasks for each in found.episodes.values()] == [
        each.tasks for each in source.episodes.values()
    ]
    assert found.version == "v3.0" and found.fps == FPS and found.names == source.names
    for camera in CAMERAS:
        for episode, frames in enumerate(frames_in(found.root, camera)):
            known = frames_of(episode, camera)
            assert frames.shape == known.shape and np.abs(frames.astype(int) - known).mean() < 3
    again = columns_of(copied(found, tmp_path / "again"))
    assert again == after and not (found.root / ".staged").exists()


def test_meta_is_complete_and_true(tmp_path):
    found = copied(LeRobotFolder(write_lerobot(tmp_path / "real")), tmp_path / "copy")
    info = json.loads((found.root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, sum(LENGTHS), 2)
    assert info["splits"] == {"train": "0:3"} and info["robot_type"] == "toy" and info["codebase_version"] == "v3.0"
    assert {*OF_THE_FORMAT, *CAMERAS, "action", "observation.state"} == info["features"].keys()
    video = info["features"][CAMERAS[0]]["info"]
    height, width = SIZES[CAMERAS[0]]
    assert (video["video.height"], video["video.width"], video["video.codec"]) == (height, width, "h264")
    assert video["video.fps"] == FPS
    every = np.concatenate([numbers_of(n)["action"] for n in range(3)]).astype(np.float64)
    stats = json.loads((found.root / "meta/stats.json").read_text())
    assert stats.keys() == info["features"].keys()
    for name, expected in (
        ("mean", every.mean(0)),
        ("std", every.std(0)),
        ("min", every.min(0)),
        ("max", every.max(0)),
    ):
        assert stats["action"][name] == pytest.approx(expected.tolist(), abs=1e-6), name
    assert stats["action"]["count"] == [sum(LENGTHS)] and stats["index"]["max"] == [sum(LENGTHS) - 1]
    colours = np.concatenate([frames_of(n, CAMERAS[0]).reshape(-1, 3) for n in range(3)]) / 255
    assert np.array(stats[CAMERAS[0]]["mean"]).shape == (3, 1, 1)
    assert np.array(stats[CAMERAS[0]]["mean"]).ravel() == pytest.approx(colours.mean(0), abs=0.01)
    rows = parquet.read_table(found.root / "meta/episodes").to_pylist()
    ends = np.cumsum(LENGTHS).tolist()
    assert [row["dataset_to_index"] for row in rows] == ends and rows[1]["dataset_from_index"] == LENGTHS[0]
    times = [(row[f"videos/{CAMERAS[0]}/from_timestamp"], row[f"videos/{CAMERAS[0]}/to_timestamp"]) for row in rows]
    assert times == [(start / FPS, end / FPS) for start, end in zip([0, *ends], ends, strict=False)]
    mean = rows[1]["stats/action/mean"]
    assert mean == pytest.approx(numbers_of(1)["action"].mean(0).tolist(), abs=1e-6)


def test_files_end_where_they_are_full(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VIDEO_MB", 1e-6)
    monkeypatch.setattr(module, "ROWS_MB", 1e-6)
    monkeypatch.setattr(module, "CHUNK", 2)
    found = copied(LeRobotFolder(write_lerobot(tmp_path / "real")), tmp_path / "copy")
    files = sorted(str(path.relative_to(found.root / "data")) for path in found.root.glob("data/*/*"))
    assert files == ["chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet"]
    assert [len(frames) for frames in frames_in(found.root, CAMERAS[1])] == list(LENGTHS)
    assert {span.start for episode in found.episodes.values() for span in episode.videos.values()} == {0.0}


def test_who_stops_goes_on_and_what_is_finished_stays(tmp_path):
    features = ACTION | {"observation.images.top": {"dtype": "video", "shape": [16, 16, 3], "names": None}}
    features |= {"generated": {"dtype": "bool", "shape": [1], "names": None}}
    features |= {"generated.by": {"dtype": "string", "shape": [1], "names": None}}

    def add(out: LeRobotWriter, index: int) -> None:
        values = {"action": np.full((5, 2), index, np.float32), "generated": np.full(5, index % 2 == 1)}
        values["generated.by"] = np.array([f"model {index}"] * 5)
        out.add(index, "push", values, {"observation.images.top": np.full((5, 16, 16, 3), 50 * index, np.uint8)})

    add(LeRobotWriter(tmp_path, 10, features), 3)
    out = LeRobotWriter(tmp_path, 10, features)
    assert out.staged() == {3}
    add(out, 1)
    assert LeRobotWriter(tmp_path, 10, features, card="# Made\n").finish() == 2
    found = LeRobotFolder(tmp_path)
    columns = columns_of(found)
    assert columns["generated"] == [True] * 10 and columns["generated.by"] == ["model 1"] * 5 + ["model 3"] * 5
    assert (tmp_path / "README.md").read_text() == "# Made\n"
    first = read_frames(probe_video(tmp_path / "videos/observation.images.top/chunk-000/file-000.mp4"), [0, 9])
    assert abs(int(first[0].mean()) - 50) < 3 and abs(int(first[1].mean()) - 150) < 3
    with pytest.raises(LeRobotError, match="finished dataset"):
        LeRobotWriter(tmp_path, 10, features)


def test_what_does_not_fit_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(LeRobotError, match="something else"):
        LeRobotWriter(tmp_path / "full", 10, ACTION)
    with pytest.raises(LeRobotError, match="of kind image"):
        LeRobotWriter(tmp_path / "new", 10, {"x": {"dtype": "image", "shape": [8, 8, 3]}})
    out = LeRobotWriter(tmp_path / "new", 10, ACTION)
    with pytest.raises(LeRobotError, match="no episode"):
        out.finish()
    for columns, message in (({}, "differ in action"), ({"action": np.zeros((4, 3))}, "has shape")):
        with pytest.raises(ValueError, match=message):
            out.add(
                0, "push", {"action": columns.get("action", np.zeros(0))} if columns else {"other": np.zeros(4)}, {}
            )
    with pytest.raises(ValueError, match="2 tasks for 4 frames"):
        out.add(0, ["a", "b"], {"action": np.zeros((4, 2))}, {})
    assert out.staged() == set()
