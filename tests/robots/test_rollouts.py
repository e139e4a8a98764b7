"""A policy inside a video model: what each is given of the other, and what becomes of it."""

import json
import re

import numpy as np
import pytest

import rollout_world_model
from tests.robots.homing import CAMERA, SPEED, TASK, expert, picture, write_homing
from tests.robots.test_generate_episodes import columns, generate, videos
from tests.robots.test_inverse_dynamics import train as train_reader
from tests.robots.test_policy import train as train_policy
from tests.text2video.running import train as train_world
from utils.cli import UserError
from utils.lerobot.folder import LeRobotFolder
from utils.robots.labels import LASTING, StateReader, SuccessReader
from utils.robots.policies import TrainedPolicy
from utils.robots.rollouts import most_executed, roll_out
from utils.robots.world_model import WorldModel

FRAMES = 6


class Squares:
    """A model of the world that obeys: pieces of 8 frames; `asked` notes what it was given."""

    num_frames, overlap = 8, 3

    def __init__(self):
        self.asked = []

    def go_on(self, prompts, before, actions, seeds):
        self.asked.append((before, actions))
        return np.stack([self._one(*each) for each in zip(before, actions, strict=True)])

    def _one(self, before, actions):
        x, frames = place(before[-1]), []
        for action in actions[len(before) - 1 : -1]:
            x += SPEED * action[0]
            frames.append(picture(x))
        return np.stack(frames)


class Homing:
    """A policy that knows, and says 4 actions ahead."""

    names, chunk = ("right", "hold"), 4

    def act(self, tasks, frames):
        rows = []
        for x in map(place, frames):
            planned = []
            for _ in range(self.chunk):
                planned.append(expert(x))
                x += SPEED * planned[-1][0]
            rows.append(planned)
        return np.array(rows, np.float32)


def place(frame: np.ndarray) -> int:
    return int(np.argmax(frame[14, :, 0] > 140))


@pytest.mark.parametrize("execute", [4, 3, 1])
def test_the_policy_acts_on_what_the_model_draws_of_its_actions(execute):
    world, policy = Squares(), Homing()
    assert most_executed(world, policy) == 4
    first = np.stack([picture(0), picture(23)])
    drawn, actions = roll_out(world, policy, [TASK] * 2, first, [0, 1], 10, execute)
    assert drawn.shape == (2, 10, 32, 32, 3) and actions.shape == (2, 10, 2)
    assert np.array_equal(drawn[:, 0], first)
    for video, taken in zip(drawn, actions, strict=True):
        places = [place(frame) for frame in video]
        assert places[-1] == 12
        assert np.allclose(np.diff(places), SPEED * taken[:-1, 0], atol=1)  # action t leads to frame t + 1
        assert np.allclose(taken[-1], expert(places[-1]))
    for before, asked in world.asked:
        assert before.shape[1] in (1, world.overlap) and asked.shape == (2, world.num_frames, 2)
    before, asked = world.asked[-1]  # begins with what was done in the frames that it goes on from
    assert before.shape[1] == world.overlap
    start = next(t for t in range(10) if np.array_equal(drawn[:, t : t + world.overlap], before))
    known = min(world.num_frames, 10 - start, world.overlap - 1 + execute)
    assert np.allclose(asked[:, :known], actions[:, start : start + known])


@pytest.fixture(scope="module")
def homing(tmp_path_factory):
    return write_homing(tmp_path_factory.mktemp("homing") / "data")


@pytest.fixture(scope="module")
def world(homing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "run"
    flags = ("--num_frames", FRAMES, "--frame_size", 32, "--vectors", "action", "--max_train_steps", 2)
    train_world(homing, folder, *map(str, flags), "--tasks", "first_frame=1", "continuation=1")
    return folder


@pytest.fixture(scope="module")
def policy(homing, tmp_path_factory):
    return train_policy(homing, tmp_path_factory.mktemp("policy") / "run", "--max_train_steps", 2)


@pytest.fixture(scope="module")
def success(homing, tmp_path_factory):
    flags = ("--vectors", "success", "--max_train_steps", 150, "--validate_every", 50)
    return train_reader(homing, tmp_path_factory.mktemp("success") / "run", *flags)


def roll(world, policy, dataset, output_dir, *flags):
    argv = ["--checkpoint", world, "--policy", policy, "--dataset", dataset, "--output_dir", output_dir]
    argv += ["--num_inference_steps", 2, "--num_episodes", 5, "--batch_size", 2, "--num_frames", 9, "--overlap", 2]
    argv += ["--mixed_precision", "no", *flags]
    rollout_world_model.main(rollout_world_model.parse_args([str(word) for word in argv]))
    return LeRobotFolder(output_dir)


def test_success_is_read_from_the_frames_of_a_video(success):
    judge = SuccessReader(success, 10)
    going, there = [picture(x) for x in (0, 3, 6, 9)], [picture(12)] * 4
    done = judge.done(np.stack(going + there))
    assert judge.model.config.binary and done.shape == (8,) and done[:2].max() < 0.5 < done[4:6].min()
    assert judge.says_done(np.stack(going + there)) and not judge.says_done(np.stack(going[:3] * 2))
    flash = np.stack([*going[:3], picture(12), *going[:3]])  # a single frame does not decide
    assert LASTING > 1 and not judge.says_done(flash)


def test_the_model_goes_on_from_known_frames_with_each_action_at_its_frame(world, monkeypatch):
    model, given = WorldModel(world, num_inference_steps=2, overlap=2, mixed_precision="no"), []
    about, sample = model.settings.vectors["action"], model.model.sample

    def remembers(*args, conditions, **how):
        given.append(conditions)
        return sample(*args, conditions=conditions, **how)

    monkeypatch.setattr(model.model, "sample", remembers)
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(2, FRAMES, 2)).astype(np.float32)
    for count in (1, 2):
        before = rng.integers(0, 255, (2, count, 32, 32, 3), dtype=np.uint8)
        new = model.go_on([TASK] * 2, before, actions, [0, 1])
        assert new.shape == (2, FRAMES - count, 32, 32, 3) and new.dtype == np.uint8
        known = given[-1]["known"].numpy()
        assert np.allclose(known[:, :3, :count].transpose(0, 2, 3, 4, 1), before / 127.5 - 1, atol=1e-6)
        assert (known[:, 3, :count] == 1).all() and (known[:, 3, count:] == 0).all()
        told = given[-1]["action"].numpy()
        assert np.allclose(told[..., :2], (actions - about["mean"]) / about["std"], atol=1e-5)


def test_rollouts_are_a_dataset_with_the_policys_actions_and_a_table(
    world, policy, success, homing, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(SuccessReader, "done", lambda self, video: video.mean(axis=(1, 2, 3)) / 255)
    found = roll(world, policy, homing, tmp_path / "made", "--success", success, "--done", 0.5)
    assert [each.length for each in found.episodes.values()] == [9] * 5 and found.cameras == [CAMERA]
    assert {each.tasks for each in found.episodes.values()} == {(TASK,)}
    assert set(sum(columns(found, "generated.source_frame"), [])) == {0}
    assert set(sum(columns(found, "generated.actions_of"), [])) == {-1}
    done = [max(each) >= 0.5 for each in columns(found, "generated.done")]
    table = json.loads((found.root / "rollouts.json").read_text())
    assert table["done_by_task"] == {TASK: {"episodes": 5, "done": sum(done)}}
    said = capsys.readouterr()
    assert f"| {TASK} | {sum(done)} of 5 |" in said.out and "warning" not in said.err
    assert (found.root / "rollouts.png").is_file()

    # Stopped in the middle, it goes on to the same; and --only_done keeps those in which it was done.
    go_on, calls = WorldModel.go_on, []

    def breaks(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return go_on(self, *args)

    middle = np.mean(sorted(max(each) for each in columns(found, "generated.done"))[1:3])
    flags = ("--success", success, "--done", middle, "--only_done")
    monkeypatch.setattr(WorldModel, "go_on", breaks)
    with pytest.raises(KeyboardInterrupt):
        roll(world, policy, homing, tmp_path / "some", *flags)
    monkeypatch.setattr(WorldModel, "go_on", go_on)
    with pytest.raises(UserError, match=r"--output_dir: .* other settings \(seed\)"):
        roll(world, policy, homing, tmp_path / "some", *flags, "--seed", 9)
    some = roll(world, policy, homing, tmp_path / "some", *flags)
    kept = [n for n, each in enumerate(columns(found, "generated.done")) if max(each) >= middle]
    assert 0 < len(kept) < 5 and [each[0] for each in columns(some, "generated.seed")] == kept
    assert columns(some, "action") == [columns(found, "action")[n] for n in kept]
    table = json.loads((some.root / "rollouts.json").read_text())
    assert table["done_by_task"] == {TASK: {"episodes": 5, "done": len(kept)}}
    assert np.array_equal(videos(some.root, CAMERA)[0], videos(found.root, CAMERA)[kept[0]])


def test_where_the_robot_is_is_read_from_the_video_for_those_who_ask_for_states(
    world, policy, homing, tmp_path, monkeypatch
):
    flags = ("--vectors", "state", "--max_train_steps", 150, "--validate_every", 50)
    run = train_reader(homing, tmp_path / "state", *flags)
    places = np.array([1, 4, 7, 10, 12, 12, 12])
    read, _ = StateReader(run, ("x",), 10).read(np.stack([picture(x) for x in places]))
    assert read.shape == (7, 1) and np.abs(read[:, 0] - places).max() < 2

    monkeypatch.setattr(StateReader, "read", lambda self, video: (video.mean((1, 2))[:, :1], None))
    found = roll(world, policy, homing, tmp_path / "made", "--state", run)
    assert found.names["state"] == ("x",) and found.features["observation.state"]["shape"] == [1]
    for states, video in zip(columns(found, "observation.state"), videos(found.root, CAMERA), strict=True):
        assert np.allclose(states, video[..., 0].mean((1, 2)), atol=4)  # as lossy as the video
    drawn = generate(world, homing, tmp_path / "drawn", "--state", run, "--success", run, "--min_done", 0)
    assert np.ptp(columns(drawn, "observation.state")[0]) > 0


def test_actions_unlike_what_the_model_has_learnt_are_said(world, policy, homing, tmp_path, capsys, monkeypatch):
    act = TrainedPolicy.act
    monkeypatch.setattr(TrainedPolicy, "act", lambda self, *given: act(self, *given) + np.array([0, 9], np.float32))
    roll(world, policy, homing, tmp_path / "made", "--num_episodes", 1)
    said = capsys.readouterr().err
    assert re.search(r"warning: actions were off, in deviations of its data, hold by \d+\.\d:", said)


def test_what_does_not_fit_is_said_in_a_line(world, policy, success, homing, tmp_path, capsys):
    def refused(message, *flags, policy=policy):
        with pytest.raises(UserError, match=message):
            roll(world, policy, homing, tmp_path / "made", *flags)

    refused("--execute: got 5; of the policy's 4 actions a piece shows 4", "--execute", 5)
    refused("--policy: .* cannot be used", policy=tmp_path)
    refused("--success: .* cannot be used", "--success", tmp_path)
    two = train_reader(homing, tmp_path / "two", "--max_train_steps", 1)
    refused("--success: it reads right, hold; one number", "--success", two)
    refused("--state: it reads right, hold; --dataset has x", "--state", two)
    with pytest.raises(SystemExit):
        roll(world, policy, homing, tmp_path / "made", "--only_done")
    assert "--only_done: needs --success" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
