"""A policy that imitates episodes: what it learns, from what, and what it is asked for."""

import shutil

import numpy as np
import pytest
import torch

import train_policy
from models.robots.policy import Policy, imitation_loss, shifted
from tests.robots.homing import SPEED, TASK, expert, picture, write_homing
from tests.robots.test_inverse_dynamics import moving_squares
from utils.cli import UserError
from utils.logs.metrics import read_metrics
from utils.robots.joined import JoinedClips
from utils.robots.policies import TrainedPolicy


def train(data, output_dir, *flags):
    argv = ["--data_dir", data, "--output_dir", output_dir, "--num_frames", 8, "--frame_size", 32, "--chunk", 4]
    argv += ["--num_workers", 0, "--val_fraction", 0.2, "--log_every", 1, "--no_wandb", "--batch_size", 8, *flags]
    train_policy.main(train_policy.parse_args([str(word) for word in argv]))
    return output_dir


@pytest.fixture(scope="module")
def homing(tmp_path_factory):
    return write_homing(tmp_path_factory.mktemp("homing") / "data")


@pytest.fixture(scope="module")
def trained(homing, tmp_path_factory):
    return train(homing, tmp_path_factory.mktemp("policy") / "run", "--max_train_steps", 250)


def test_it_does_what_the_episodes_show_from_pictures_alone(trained):
    policy = TrainedPolicy(trained)
    assert (policy.names, policy.fps, policy.chunk, policy.tasks) == (("right", "hold"), 10, 4, [TASK])
    places = np.arange(1, 24, 2.0)
    actions = policy.act([TASK] * len(places), np.stack([picture(x) for x in places]))
    assert actions.shape == (len(places), 4, 2)
    for k in range(2):  # the first action, and the one that follows it unseen
        wanted = [expert(x)[0] for x in (places if k == 0 else places + [SPEED * expert(x)[0] for x in places])]
        assert np.abs(actions[:, k, 0] - wanted).mean() < 0.25, k
    for x in (2.0, 22.0):
        for _ in range(12):
            x += SPEED * policy.act([TASK], picture(x)[None])[0, 0, 0]
        assert abs(x - 12) < 3


def test_the_loss_is_the_squared_error_of_all_actions_that_lie_in_the_clip():
    torch.manual_seed(0)
    policy = Policy(["a", "b"], ["x", "y"], [0.0, 0.0], [1.0, 1.0], chunk=3, width=4)
    clips, actions, tasks = torch.randn(2, 3, 5, 16, 16), torch.randn(2, 5, 2), torch.tensor([0, 1])
    errors = []
    for t in range(5):
        believed = policy(clips[:, :, t], tasks)
        errors += [(believed[0, k] - actions[0, t + k]).square().mean() for k in range(3) if t + k < 5]
    expected = torch.stack(errors).mean()
    assert imitation_loss(policy, clips, actions, tasks, torch.tensor([1.0, 0.0])).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert imitation_loss(policy, clips, actions, tasks, torch.zeros(2)) == 0
    assert not torch.equal(policy(clips[:, :, 0], tasks), policy(clips[:, :, 0], 1 - tasks))


def test_shifted_clips_are_moved_as_a_whole_and_their_rim_is_repeated():
    clips = torch.arange(36.0).reshape(1, 1, 1, 6, 6).repeat(8, 3, 4, 1, 1)
    assert torch.equal(shifted(clips, 0), clips)
    torch.manual_seed(0)
    moved = shifted(clips, 2)
    assert (moved == moved[:, :1, :1]).all() and not torch.equal(moved, clips)
    padded = torch.nn.functional.pad(clips[0, 0, :1], [2] * 4, mode="replicate")[0]
    every = [padded[top : top + 6, left : left + 6] for top in range(5) for left in range(5)]
    assert all(any(torch.equal(each[0, 0], one) for one in every) for each in moved)


def test_a_resumed_run_equals_an_uninterrupted_one_also_with_generated_episodes(homing, tmp_path):
    write_homing(tmp_path / "generated", episodes=5, tasks=("slide",))
    flags = ("--max_train_steps", 6, "--checkpoint_every", 3, "--generated", tmp_path / "generated", "--shift", 2)
    whole, parts = (train(homing, tmp_path / name, *flags) for name in ("whole", "parts"))
    shutil.rmtree(parts / "checkpoint-00000006")
    train(homing, parts, *flags, "--resume", "latest")
    losses = [
        [row["train/loss"] for row in read_metrics(each / "metrics.jsonl") if "train/loss" in row]
        for each in (whole, parts)
    ]
    assert losses[0] == losses[1]
    assert TrainedPolicy(whole).tasks == ["slide", TASK]


def test_each_of_joined_datasets_has_its_share():
    class Clips(torch.utils.data.Dataset):
        seed, max_unreadable = 0, 2

        def __init__(self, name, count):
            self.name, self.count = name, count

        def __len__(self):
            return self.count

        def read(self, key):
            return {"from": self.name, "key": key}

        def path(self, index):
            return f"{self.name}{index}"

        def groups(self):
            return [(range(self.count), 1.0)]

    joined = JoinedClips((Clips("real", 3), 0.25), (Clips("generated", 2), 0.75))
    assert len(joined) == 5 and joined.max_unreadable == 4
    assert joined.groups() == [([0, 1, 2], 0.25), ([3, 4], 0.75)]
    assert joined.read((7, 2)) == {"from": "real", "key": (7, 2)}
    assert joined.read((7, 3)) == {"from": "generated", "key": (7, 0)} and joined.path(4) == "generated1"


def test_what_does_not_fit_is_said_in_a_line(homing, trained, tmp_path, capsys):
    policy = TrainedPolicy(trained)
    with pytest.raises(UserError, match="--policy: it has not learnt 'fly', but 'to the middle'"):
        policy.check(("right", "hold"), 10, [TASK, "fly"])
    with pytest.raises(UserError, match="--policy: it acts with right, hold; the model obeys dx, dy"):
        policy.check(("dx", "dy"), 10)
    with pytest.raises(UserError, match="--policy: it learnt from 10 frames a second, the model draws 5"):
        policy.check(("right", "hold"), 5)
    with pytest.raises(UserError, match="--policy: .* cannot be used"):
        TrainedPolicy(tmp_path)
    moving_squares(tmp_path / "other", episodes=5)
    with pytest.raises(UserError, match="--generated: .*other has right, hidden as action; --data_dir has right, hold"):
        train(homing, tmp_path / "run", "--generated", tmp_path / "other", "--max_train_steps", 1)
    slow = write_homing(tmp_path / "slow", episodes=3, fps=5)
    with pytest.raises(UserError, match="--generated: .*slow has 5 frames a second, --data_dir 10; --target_fps"):
        train(homing, tmp_path / "run", "--generated", slow, "--max_train_steps", 1)
    one = write_homing(tmp_path / "one", episodes=2, tasks=("fetch", "carry"))
    with pytest.raises(UserError, match="--val_fraction: no held-out clip has a task that is learnt"):
        train(one, tmp_path / "run", "--max_train_steps", 1)
    with pytest.raises(UserError, match="--vectors: the episodes have no speed"):
        train(homing, tmp_path / "run", "--vectors", "speed")
    for flags, said in (
        (["--chunk", "9"], "--chunk: got 9, at most the 8 frames"),
        (["--generated", str(tmp_path / "none")], "--generated: there is no folder"),
    ):
        with pytest.raises(SystemExit):
            train(homing, tmp_path / "run", *flags)
        assert said in capsys.readouterr().err
