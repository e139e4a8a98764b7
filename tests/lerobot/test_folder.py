"""Episodes of LeRobot datasets are what was recorded: frames, numbers, tasks, in the formats that are about."""

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from tests.lerobot.datasets import CAMERAS, FPS, LENGTHS, TASKS, frames_of, numbers_of, write_lerobot
from utils.conditions.clip_conditions import ClipConditions
from utils.data.clip_index import usable_clips
from utils.data.errors import DataError
from utils.data.find_clips import FolderFormat
from utils.decoding.read import read_frames
from utils.lerobot.folder import LeRobotError, LeRobotFolder
from video_dataset import TextVideoDataset


@pytest.fixture(scope="module", params=["v3.0", "v2.1", "v2.0"])
def folder(request, tmp_path_factory):
    return write_lerobot(tmp_path_factory.mktemp("lerobot") / request.param, request.param)


def episodes(folder: Path, cameras=("front",), **how):
    found, sources, report = usable_clips(folder, FolderFormat(cameras=cameras), 2, None, "skip", "error", None)
    assert len(set(sources)) == len(found)  # each is validated or learnt as a whole
    return found


def test_every_episode_is_a_clip_with_its_own_frames_and_task(folder):
    found = episodes(folder)
    assert [(info.frames, info.fps) for info, _ in found] == [(length, FPS) for length in LENGTHS]
    assert [texts for _, texts in found] == [(TASKS[0],), (TASKS[1],), (TASKS[0],)]
    for n, (info, _) in enumerate(found):
        frames = read_frames(info, range(info.frames)).astype(int)
        assert np.abs(frames - frames_of(n, CAMERAS[0])).mean() < 3
        assert np.abs(frames[-1] - frames_of(n, CAMERAS[0])[-1]).mean() < 3  # and not the next episode's first


def test_cameras_stand_side_by_side_in_the_order_that_was_asked_for(folder):
    for n, (info, _) in enumerate(episodes(folder, ["wrist", "observation.images.front"])):
        assert (info.height, info.width) == (24, 24 + 32)
        frames = read_frames(info, range(info.frames)).astype(int)
        assert np.abs(frames[:, :, :24] - frames_of(n, CAMERAS[1])).mean() < 3
        grey = frames[:, 18:, 26:]
        assert abs(grey.mean() - (40 + 40 * n)) < 4


def test_actions_and_states_are_vectors_of_each_frame(folder):
    infos = [info for info, _ in episodes(folder)]
    conditions = ClipConditions(folder, infos, vectors=["action", "state"])
    assert conditions.names == {"action": ("dx", "dy"), "state": ("a", "b", "c")}
    for n, info in enumerate(infos):
        chosen = np.array([0, 3, 4, info.frames - 1])
        values, present, why = conditions.read(info, chosen, lambda frames: frames)
        assert present == {"action": 1.0, "state": 1.0} and not why
        for name, column in (("action", "action"), ("state", "observation.state")):
            np.testing.assert_allclose(values[name], numbers_of(n)[column][chosen], atol=1e-5)


def test_the_dataset_class_takes_the_folder_and_splits_it_by_episode(folder):
    how = {"num_frames": 8, "frame_size": 32, "cameras": ["front"], "val_fraction": 0.34, "augment": False}
    sets = [TextVideoDataset(folder, split=split, **how) for split in ("train", "val")]
    assert [len(each) for each in sets] == [2, 1] and {*sets[0].captions(), *sets[1].captions()} == set(TASKS)
    assert sets[0][0]["video"].shape == (3, 8, 32, 32)
    assert (
        sets[0].fingerprint() != TextVideoDataset(folder, split="train", **how | {"cameras": ["wrist"]}).fingerprint()
    )


def test_numbers_without_names_are_counted(tmp_path):
    folder = LeRobotFolder(write_lerobot(tmp_path / "a", names=None))
    assert folder.names["action"] == ("action_0", "action_1")


def test_one_camera_needs_no_name_and_of_several_none_is_guessed(tmp_path):
    write_lerobot(tmp_path / "one", cameras=CAMERAS[:1])
    assert len(episodes(tmp_path / "one", None)) == 3
    write_lerobot(tmp_path / "two")
    with pytest.raises(
        DataError, match=r"has the cameras observation.images.front, observation.images.wrist; --cameras"
    ):
        episodes(tmp_path / "two", None)
    with pytest.raises(DataError, match="--cameras: there is no top; it has observation.images.front, "):
        episodes(tmp_path / "two", ["top"])
    with pytest.raises(DataError, match="the episodes have no speed; vectors are state, action"):
        ClipConditions(tmp_path / "two", [], vectors=["speed"])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"codebase_version": "v1.6"}, "format v1.6; v2.0, v2.1 and v3.0 can be read"),
        ({"fps": 0}, "0 frames per second"),
        ({"features": None}, "not as lerobot writes it"),
        ({"data_path": None}, "not as lerobot writes it"),
        ({"data_path": "../{chunk_index}.parquet"}, "its rows would lie outside of the folder"),
        ({"video_path": "/tmp/{video_key}.mp4"}, "its videos would lie outside of the folder"),
        ({"data_path": "{nothing}"}, "not as lerobot writes it"),
        ({"data_path": "{"}, "not as lerobot writes it"),
        ("{", "info.json: is no JSON"),
        ("[]", "not as lerobot writes it"),
    ],
)
def test_meta_files_that_are_none_are_refused_in_a_line(tmp_path, change, said):
    file = write_lerobot(tmp_path / "a") / "meta/info.json"
    file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(LeRobotError, match=said) as caught:
        LeRobotFolder(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_an_episode_whose_files_do_not_hold_it_is_left_out_with_its_reason(tmp_path, capsys):
    """The third claims to begin later than its video ends, and the second has rows for other frames."""
    root = write_lerobot(tmp_path / "a", cameras=CAMERAS[:1])
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    begin = table.column_names.index(f"videos/{CAMERAS[0]}/from_timestamp")
    table = table.set_column(begin, table.column_names[begin], [[0.0, 1.2, 3.6]])
    parquet.write_table(table, file)
    found = episodes(root, None)
    assert [info.frames for info, _ in found] == list(LENGTHS[:2])
    rows = root / "data/chunk-000/file-000.parquet"
    parquet.write_table(parquet.read_table(rows).slice(0, 15), rows)
    conditions = ClipConditions(root, [info for info, _ in found], vectors=["action"])
    _, present, why = conditions.read(found[1][0], np.arange(4), lambda frames: frames)
    assert present["action"] == 0 and "3 rows for the 20 frames of an episode" in why["action"]


def test_videos_of_another_rate_than_the_dataset_are_left_out(tmp_path, capsys):
    """Their frames would not be those of the rows."""
    root = write_lerobot(tmp_path / "a", cameras=CAMERAS[:1])
    file = root / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fps": 2 * FPS}))
    with pytest.raises(DataError, match=f"3 x its video has {FPS} frames per second, its dataset {2 * FPS}"):
        episodes(root, None)


def test_cameras_are_for_lerobot_alone(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match="--cameras is for LeRobot datasets"):
        episodes(tmp_path)
