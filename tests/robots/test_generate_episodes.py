"""New episodes from a video model: real first frames, known actions, and a dataset that says what it is."""

import json
import shutil

import numpy as np
import pytest

import generate_episodes
from tests.lerobot.datasets import CAMERAS, LENGTHS, numbers_of, write_lerobot
from tests.text2video.running import train
from utils.cli import UserError
from utils.conditions.vectors import Vectors, at_times
from utils.data.clip_index import usable_clips
from utils.data.find_clips import FolderFormat
from utils.decoding.read import read_frames
from utils.lerobot.folder import LeRobotFolder
from utils.robots.starts import Starts
from utils.robots.world_model import WorldModel

FRAMES = 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = write_lerobot(tmp_path_factory.mktemp("real") / "data")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    return folder


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    flags = ("--num_frames", FRAMES, "--height", 16, "--width", 48, "--vectors", "action")
    flags += ("--cameras", "front", "wrist", "--tasks", "first_frame=1", "continuation=1", "--max_train_steps", 2)
    train(dataset, folder, *map(str, flags))
    return folder


def generate(run, dataset, output_dir, *flags):
    argv = ["--checkpoint", run, "--dataset", dataset, "--output_dir", output_dir, "--num_inference_steps", 2]
    argv += ["--num_episodes", 5, "--batch_size", 2, "--mixed_precision", "no", "--overlap", 2, *flags]
    generate_episodes.main(generate_episodes.parse_args([str(word) for word in argv]))
    return LeRobotFolder(output_dir)


def columns(found: LeRobotFolder, name: str) -> list:
    return [found.rows(each)[name].to_pylist() for each in found.episodes.values()]


def videos(root, camera: str) -> list[np.ndarray]:
    items, _, _ = usable_clips(root, FolderFormat(cameras=[camera]), 1, None, "skip", "error", None)
    return [read_frames(info, range(info.frames)) for info, _ in items]


def test_rows_say_what_was_asked_and_how_it_was_made(run, dataset, tmp_path):
    found = generate(run, dataset, tmp_path / "made", "--seed", 3)
    assert [each.length for each in found.episodes.values()] == [FRAMES] * 5 and found.fps == 10
    assert found.cameras == list(CAMERAS) and found.names["action"] == ("dx", "dy")
    real = LeRobotFolder(dataset)
    for n, episode in enumerate(found.episodes.values()):
        rows = found.rows(episode).to_pylist()
        first = rows[0]
        assert all(row["generated"] for row in rows) and {row["generated.seed"] for row in rows} == {3 + n}
        source, actions_of = first["generated.source_episode"], first["generated.actions_of"]
        assert source != actions_of and episode.tasks == real.episodes[source].tasks
        theirs = numbers_of(actions_of)["action"]
        given = np.array([row["action"] for row in rows], np.float32)
        assert any(np.allclose(given, theirs[s : s + FRAMES], atol=1e-6) for s in range(len(theirs) - FRAMES + 1))
    checkpoint = columns(found, "generated.checkpoint")[0][0]
    assert checkpoint.startswith("run, ") and len(set(sum(columns(found, "generated.checkpoint"), []))) == 1
    card = (found.root / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "data (LeRobot v3.0, robot toy)" in card and "synthetic" in card
    assert "run/best_model.pth" in card and str(run.parent) not in card  # names, and no paths of whose machine
    assert json.loads((found.root / "meta/info.json").read_text())["robot_type"] == "toy"


def test_the_first_frame_is_the_real_one(run, dataset, tmp_path):
    found = generate(run, dataset, tmp_path / "made", "--num_episodes", "3")
    starts = Starts(dataset, ["front", "wrist"], "action", ["dx", "dy"], 16, 48)
    first = [columns(found, f"generated.{name}") for name in ("source_episode", "source_frame")]
    sides = {camera: videos(found.root, camera) for camera in CAMERAS}
    for n in range(3):
        info = starts.episodes[first[0][n][0]][0]
        whole = read_frames(info, [first[1][n][0]])
        from utils.video.frames import resize_frames

        expected = starts.by_camera(resize_frames(whole, 16, 48))
        for camera in CAMERAS:
            made = sides[camera][n][0].astype(int)
            assert made.shape == expected[camera][0].shape and np.abs(made - expected[camera][0]).mean() < 6
    assert sides[CAMERAS[0]][0].shape[2] + sides[CAMERAS[1]][0].shape[2] == 48


def test_what_stops_goes_on_to_the_same_and_other_settings_are_not_mixed(run, dataset, tmp_path, monkeypatch):
    whole = generate(run, dataset, tmp_path / "whole", "--batch_size", "1")
    follow, calls = WorldModel.follow, []

    def breaks(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return follow(self, *args, **kwargs)

    monkeypatch.setattr(WorldModel, "follow", breaks)
    with pytest.raises(KeyboardInterrupt):
        generate(run, dataset, tmp_path / "parts", "--batch_size", "1")
    monkeypatch.setattr(WorldModel, "follow", follow)
    with pytest.raises(UserError, match=r"--output_dir: .* other settings \(num_inference_steps\)"):
        generate(run, dataset, tmp_path / "parts", "--num_inference_steps", "3")
    parts = generate(run, dataset, tmp_path / "parts", "--batch_size", "1")
    assert [columns(parts, name) for name in ("action", "generated.source_frame", "index")] == [
        columns(whole, name) for name in ("action", "generated.source_frame", "index")
    ]
    assert all(map(np.array_equal, videos(parts.root, CAMERAS[0]), videos(whole.root, CAMERAS[0])))


def test_the_model_is_given_the_first_frame_and_each_action_at_its_frame(run, monkeypatch):
    world, given = WorldModel(run, num_inference_steps=2, overlap=2, mixed_precision="no"), []
    about, sample = world.settings.vectors["action"], world.model.sample

    def remembers(*args, conditions, **how):
        given.append(conditions)
        return sample(*args, conditions=conditions, **how)

    monkeypatch.setattr(world.model, "sample", remembers)
    first = np.random.default_rng(0).integers(0, 255, (1, 16, 48, 3), dtype=np.uint8)
    actions = np.random.default_rng(1).normal(size=(1, 10, 2)).astype(np.float32)
    video = world.follow(["push"], first, actions, [0])[0]
    assert len(given) == 2 and video.shape == (10, 16, 48, 3)
    known = given[0]["known"][0].numpy()  # colours, and whether they are known
    assert np.allclose(known[:3, 0].transpose(1, 2, 0), first[0] / 127.5 - 1, atol=1e-6)
    assert (known[3, 0] == 1).all() and (known[3, 1:] == 0).all()
    later = given[1]["known"][0].numpy()
    assert (later[3, :2] == 1).all() and (later[3, 2:] == 0).all()
    assert np.abs(later[:3, :2].transpose(1, 2, 3, 0) - (video[4:6] / 127.5 - 1)).max() < 0.01
    for conditions, start in zip(given, (0, 4), strict=True):
        told = conditions["action"][0].numpy()
        expected = (actions[0, start : start + FRAMES] - about["mean"]) / about["std"]
        assert np.allclose(told[:, :2], expected, atol=1e-5) and (told[:, 2] == 1).all()
    given.clear()
    world.follow(["push"], first, actions[:, :FRAMES], [0], listens=False)
    assert (given[0]["action"] == 0).all()


def test_long_episodes_are_chained_and_first_frames_may_be_those_of_episodes(run, dataset, tmp_path):
    flags = ("--num_frames", 11, "--actions", "own", "--starts", "first", "--num_episodes", 2)
    found = generate(run, dataset, tmp_path / "made", *flags)
    assert [each.length for each in found.episodes.values()] == [11, 11]
    assert set(sum(columns(found, "generated.source_frame"), [])) == {0}
    for source, actions in zip(columns(found, "generated.source_episode"), columns(found, "action"), strict=True):
        assert np.allclose(actions, numbers_of(source[0])["action"][:11], atol=1e-6)


def test_starts_follow_from_seed_and_number_and_noise_stays_within_the_data(dataset):
    starts = Starts(dataset, ["front"], "action", ["dy", "dx"], 16, 16)
    one, same, other = (starts.draw(4, seed, 8, "noisy", 1.0, True) for seed in (1, 1, 2))
    assert np.array_equal(one.actions, same.actions) and one.source_frame == same.source_frame
    assert not np.array_equal(one.actions, other.actions)
    own = numbers_of(one.source)["action"][one.source_frame : one.source_frame + 8, ::-1]  # as the model has them
    assert np.abs(one.actions - own).mean() > 0.05 and one.actions_of == one.source
    every = np.concatenate([numbers_of(n)["action"][:, ::-1] for n in range(len(LENGTHS))])
    wild = np.concatenate([starts.draw(n, 0, 8, "noisy", 9.0, True).actions for n in range(20)])
    assert (wild <= every.max(0) + 1e-6).all() and (wild >= every.min(0) - 1e-6).all() and wild.std() > every.std()


def test_a_model_of_another_rate_gets_actions_at_its_times(dataset):
    starts = Starts(dataset, ["front"], "action", ["dx", "dy"], 16, 16, target_fps=5.0)
    assert starts.fps == 5 and len(starts.episodes[1][2]) == LENGTHS[1] // 2
    start = starts.draw(0, 0, 4, "own", 0.0, True)
    own = numbers_of(start.source)["action"]
    times = start.source_frame / 10 + np.arange(4) / 5
    vectors = Vectors(("dx", "dy"), own, np.arange(len(own)) / 10)
    assert np.allclose(start.actions, at_times(vectors, times, len(own) / 10), atol=1e-5)


def test_what_does_not_fit_is_said_in_a_line(run, dataset, tmp_path):
    def refused(message, *flags, model=run, data=dataset):
        with pytest.raises(UserError, match=message):
            generate(model, data, tmp_path / "made", *flags)

    refused("--num_frames: got 21, the longest episode has 20 actions", "--num_frames", 21)
    refused("--num_frames: got 4; the model draws 6 at least", "--num_frames", 4)
    refused("--vectors: the model knows action, not speed", "--vectors", "speed")
    refused("--overlap: got 6, must be less than the model's 6", "--overlap", 6)
    (tmp_path / "empty").mkdir()
    refused("--dataset: .* is no LeRobot dataset", data=tmp_path / "empty")
    other = write_lerobot(tmp_path / "other", names=("left", "right"))
    refused("--dataset: .* has left, right; the model was trained with dx, dy", data=other)
    other = shutil.copytree(dataset, tmp_path / "without")
    info = json.loads((other / "meta/info.json").read_text())
    del info["features"]["action"]
    (other / "meta/info.json").write_text(json.dumps(info))
    refused("--dataset: its episodes have no action, but state", data=other)
    deaf = tmp_path / "deaf"
    flags = ("--num_frames", "6", "--frame_size", "16", "--cameras", "front", "--max_train_steps", "1")
    train(dataset, deaf, *flags)
    refused("--checkpoint: .* was trained without first frames", model=deaf)
    assert not (tmp_path / "made").exists()
