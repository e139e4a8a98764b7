"""Actions read from videos: learnt from clips, kept with what they mean, and used on generated episodes."""

import json
import shutil

import numpy as np
import pytest
import torch

import train_inverse_dynamics
from models.robots.inverse_dynamics import InverseDynamics, action_loss, binary_loss
from models.robots.seeing import disturbed
from tests.robots.test_generate_episodes import columns, dataset, generate, run  # noqa: F401  (fixtures)
from utils.cli import UserError
from utils.lerobot.folder import LeRobotFolder
from utils.lerobot.writer import LeRobotWriter
from utils.logs.metrics import read_metrics
from utils.robots.labels import Labels, SuccessReader
from utils.robots.world_model import WorldModel


def moving_squares(root, episodes: int = 24, length: int = 10) -> None:
    """A bright square that moves by 3 px times its action; the second number of it does nothing that can be seen."""
    features = {
        "observation.images.top": {"dtype": "video", "shape": [32, 32, 3], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": ["right", "hidden"]},
    }
    writer = LeRobotWriter(root, 10, features)
    for n in range(episodes):
        rng = np.random.default_rng(n)
        actions = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        places = 12 + np.concatenate([[0], np.cumsum(3 * actions[:-1, 0])])
        frames = np.full((length, 32, 32, 3), 60, np.uint8)
        for frame, x in zip(frames, places.round().astype(int).clip(0, 24), strict=True):
            frame[10:18, x : x + 8] = 220
        writer.add(n, "slide", {"action": actions}, {"observation.images.top": frames})
    writer.finish()


def train(data, output_dir, *flags):
    argv = ["--data_dir", data, "--output_dir", output_dir, "--num_frames", 8, "--frame_size", 32, "--no_wandb"]
    argv += ["--num_workers", 0, "--val_fraction", 0.2, "--log_every", 1, *flags]
    train_inverse_dynamics.main(train_inverse_dynamics.parse_args([str(word) for word in argv]))
    return output_dir


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares") / "data"
    moving_squares(root)
    return root


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    return train(squares, tmp_path_factory.mktemp("inverse") / "run", "--max_train_steps", 150, "--validate_every", 50)


def test_what_is_seen_is_read_and_what_is_not_is_known_to_be_unsure(trained, squares):
    rows = [row for row in read_metrics(trained / "metrics.jsonl") if "val/error" in row]
    assert rows[-1]["val/error_right"] < 0.2 < 0.35 < rows[-1]["val/error_hidden"]  # the data's is 0.5
    model = InverseDynamics.from_pretrained(trained / "model").eval()
    assert model.config.names == ["right", "hidden"] and tuple(model.config.frame_size) == (32, 32)
    assert model.config.fps == 10 and model.spread.tolist() == pytest.approx([0.577, 0.577], abs=0.06)
    frames = torch.full((1, 3, 8, 32, 32), -0.5)
    for t in range(8):
        frames[:, :, t, 10:18, 4 + 2 * t : 12 + 2 * t] = 0.7
    actions, deviations = model.read(frames)
    assert actions.shape == (1, 7, 2) and actions[0, :, 0].mean() == pytest.approx(2 / 3, abs=0.25)
    assert (deviations[0, :, 0] < 0.7 * deviations[0, :, 1]).all()
    assert (trained / "actions.png").is_file() and (trained / "loss.png").is_file()


def test_a_resumed_run_equals_an_uninterrupted_one(squares, tmp_path):
    whole = train(squares, tmp_path / "whole", "--max_train_steps", 6, "--checkpoint_every", 3)
    parts = train(squares, tmp_path / "parts", "--max_train_steps", 6, "--checkpoint_every", 3)
    shutil.rmtree(parts / "checkpoint-00000006")
    train(squares, parts, "--max_train_steps", 6, "--checkpoint_every", 3, "--resume", "latest")
    losses = [
        [row["train/loss"] for row in read_metrics(each / "metrics.jsonl") if "train/loss" in row]
        for each in (whole, parts)
    ]
    assert losses[0] == losses[1]


def test_the_loss_is_the_likelihood_weighed_by_the_deviation_of_clips_that_know_their_actions():
    torch.manual_seed(0)
    believed, log_std, actions = torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    loss, error = action_loss(believed, log_std, actions, torch.tensor([1.0, 0.0]))
    normal = torch.distributions.Normal(believed[0], log_std[0].exp())
    likelihood = -normal.log_prob(actions[0]) - 0.5 * np.log(2 * np.pi)
    assert loss.item() == pytest.approx((likelihood * log_std[0].exp()).mean().item(), rel=1e-5)
    assert error.item() == pytest.approx((believed[0] - actions[0]).square().mean().item(), rel=1e-5)
    assert action_loss(believed, log_std, actions, torch.zeros(2))[0] == 0


def test_numbers_that_are_0_or_1_are_read_as_how_likely_they_are_and_what_is_rare_counts():
    torch.manual_seed(0)
    logits, values = torch.randn(2, 5, 1), (torch.rand(2, 5, 1) < 0.3).float()
    loss, error = binary_loss(logits, values, torch.tensor([1.0, 0.0]), torch.tensor([0.2]))
    likely, believed = logits[0].sigmoid(), (logits[0] - np.log(4)).sigmoid()
    weighed = -(4 * values[0] * likely.log() + (1 - values[0]) * (1 - likely).log())  # 0.8 / 0.2
    assert loss.item() == pytest.approx(weighed.mean().item(), rel=1e-5)
    assert error.item() == pytest.approx((believed - values[0]).square().mean().item(), rel=1e-5)
    model = InverseDynamics(["done"], [0.2], [0.4], width=4, binary=True).eval()
    clips = torch.randn(1, 3, 4, 16, 16)
    read, deviations = model.read(clips)
    assert torch.allclose(read, (model(clips)[0] - np.log(4)).sigmoid())
    assert torch.allclose(deviations, (read * (1 - read)).sqrt() / 0.4)


def test_disturbed_clips_are_brighter_blurred_and_noisy_each_in_its_own_way_but_show_the_same():
    torch.manual_seed(0)
    clips = torch.zeros(400, 3, 2, 8, 8)
    clips[:, :, :, 2:6, 2:6] = 0.5
    assert disturbed(clips, 0.0) is clips
    found = disturbed(clips, 1.0)
    assert found.shape == clips.shape and found.abs().max() <= 1 and not torch.equal(found[0], found[1])
    flat = found[:, :, :, 0, 0]  # far from the square, so 0 but for brightness and noise
    assert flat.mean(2).std() == pytest.approx((0.05**2 + 0.03**2 / 2) ** 0.5, rel=0.15)
    assert (flat[:, :, 1] - flat[:, :, 0]).std() == pytest.approx(0.03 * 2**0.5, rel=0.15)  # other noise in each frame
    inside, corner = (found[..., row, row].mean() for row in (4, 2))
    assert inside == pytest.approx(0.5, abs=0.02)
    assert corner == pytest.approx(0.5 * (1 + 4 / 9) / 2, abs=0.02)  # half of the way to the mean of its 3x3
    weak = disturbed(clips, 0.1)
    assert (weak - clips).abs().mean() < (found - clips).abs().mean() / 4


def test_what_is_read_is_how_often_it_is_so_although_what_is_rare_weighs_more():
    """The logit that is best for numbers of which a fifth is 1 is read as a fifth."""
    values, logit = torch.tensor([1.0] * 2 + [0.0] * 8).reshape(1, -1, 1), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss, _ = binary_loss(logit.expand_as(values), values, torch.ones(1), torch.tensor([0.1]))
        loss.backward()
        return loss

    optimizer.step(closure)
    model = InverseDynamics(["done"], [0.1], [0.3], width=4, binary=True).eval()
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.fill_(logit.item())
    assert model.read(torch.randn(1, 3, 4, 16, 16))[0].flatten().tolist() == pytest.approx([0.2] * 3, rel=1e-3)


@pytest.fixture(scope="module")
def reader(dataset, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("reader") / "run"
    flags = ("--cameras", "front", "wrist", "--max_train_steps", 2, "--num_frames", 6, "--height", 16, "--width", 48)
    return train(dataset, folder, *flags)


def test_generated_episodes_carry_what_is_read_beside_what_was_asked(run, dataset, reader, tmp_path):  # noqa: F811
    found = generate(run, dataset, tmp_path / "made", "--inverse_dynamics", reader, "--label", "read")
    asked, read, action = (
        columns(found, name) for name in ("generated.requested_action", "generated.read_action", "action")
    )
    assert action == read and asked != read and all(one[-1] == one[-2] for one in read)
    plain = generate(run, dataset, tmp_path / "plain")
    assert columns(plain, "action") == asked and "generated.read_action" not in plain.features
    deviations = [np.mean(each) for each in columns(found, "generated.deviation")]
    middle = float(np.median(deviations))
    some = generate(run, dataset, tmp_path / "some", "--inverse_dynamics", reader, "--max_deviation", middle + 1e-6)
    kept = [each[0] for each in columns(some, "generated.seed")]
    assert kept == [n for n, deviation in enumerate(deviations) if deviation <= middle + 1e-6] and len(kept) == 3
    assert columns(some, "action") == [asked[n] for n in kept]
    assert json.loads((some.root / "meta/info.json").read_text())["total_episodes"] == 3


def test_a_model_that_is_told_of_no_actions_shows_what_it_expects_and_they_are_read(
    run,  # noqa: F811
    dataset,  # noqa: F811
    reader,
    tmp_path,
    monkeypatch,
    capsys,
):
    follow, told = WorldModel.follow, []

    def listens_or_not(self, *args, listens):
        told.append(listens)
        return follow(self, *args, listens=listens)

    monkeypatch.setattr(WorldModel, "follow", listens_or_not)
    flags = ("--actions", "none", "--inverse_dynamics", reader, "--label", "read", "--starts", "first")
    found = generate(run, dataset, tmp_path / "made", *flags)
    assert told == [False] * 3 and "generated.requested_action" not in found.features
    assert columns(found, "action") == columns(found, "generated.read_action")
    assert set(sum(columns(found, "generated.actions_of"), [])) == {-1}
    assert set(sum(columns(found, "generated.source_frame"), [])) == {0}
    with pytest.raises(SystemExit):
        generate(run, dataset, tmp_path / "other", *flags[:4])
    assert "--actions: none needs --inverse_dynamics and --label read" in capsys.readouterr().err


def test_episodes_in_which_no_success_is_read_are_left_out(run, dataset, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(SuccessReader, "__init__", lambda self, folder, fps: None)
    monkeypatch.setattr(SuccessReader, "done", lambda self, video: video.mean(axis=(1, 2, 3)) / 255)
    every = generate(run, dataset, tmp_path / "every", "--success", tmp_path, "--min_done", 0)
    peaks = [max(each) for each in columns(every, "generated.done")]
    middle = float(np.mean(sorted(peaks)[1:3]))
    some = generate(run, dataset, tmp_path / "some", "--success", tmp_path, "--min_done", middle)
    assert [each[0] for each in columns(some, "generated.seed")] == [n for n in range(5) if peaks[n] >= middle]
    assert len(some.episodes) == 3


def test_episodes_that_were_left_out_are_not_drawn_again(run, dataset, reader, tmp_path, monkeypatch):  # noqa: F811
    flags = ("--inverse_dynamics", reader, "--max_deviation", 1e-6, "--batch_size", 1)  # all of them are
    follow, drawn = WorldModel.follow, []

    def breaks(self, prompts, frames, actions, seeds, listens):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.extend(seeds)
        return follow(self, prompts, frames, actions, seeds, listens)

    monkeypatch.setattr(WorldModel, "follow", breaks)
    with pytest.raises(KeyboardInterrupt):
        generate(run, dataset, tmp_path / "made", *flags)
    drawn.append(None)
    with pytest.raises(UserError, match="no episode was written"):
        generate(run, dataset, tmp_path / "made", *flags)
    assert drawn == [0, 1, 2, None, 3, 4]


def test_what_does_not_fit_is_said_in_a_line(run, dataset, trained, reader, tmp_path, capsys):  # noqa: F811
    with pytest.raises(UserError, match="--inverse_dynamics: it reads right, hidden; the model obeys dx, dy"):
        generate(run, dataset, tmp_path / "made", "--inverse_dynamics", trained)
    with pytest.raises(UserError, match="--inverse_dynamics: it learnt from 10 frames a second, these have 5"):
        Labels(reader, ("dx", "dy"), 5.0)
    with pytest.raises(UserError, match="--inverse_dynamics: .* cannot be used"):
        Labels(tmp_path, ("dx", "dy"), 10.0)
    damaged = shutil.copytree(reader / "model", tmp_path / "damaged")
    weights = damaged / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="--inverse_dynamics: .* cannot be used"):
        Labels(damaged, ("dx", "dy"), 10.0)
    for flags in (["--label", "read"], ["--max_deviation", "1"]):
        with pytest.raises(SystemExit):
            generate(run, dataset, tmp_path / "made", *flags)
        assert f"{flags[0]}: needs --inverse_dynamics" in capsys.readouterr().err
    with pytest.raises(UserError, match="--vectors: .*no speed.*state, action"):
        train(dataset, tmp_path / "run", "--vectors", "speed", "--cameras", "front")
    assert LeRobotFolder(dataset).names["action"] == ("dx", "dy")
