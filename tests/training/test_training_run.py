"""A third trainer needs nothing but TrainingRun: a toy model trains, stops, resumes, and is guarded like the others."""

import json
import multiprocessing
import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from utils.arguments.training import FREE_ON_RESUME, add_log_args, add_optimizer_args, add_run_args
from utils.cli import Diverged, Parser, Stopped, UserError
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.training.order import seed_step
from utils.training.training_run import TrainingRun


class Points(Dataset):
    """x (2,) and y = 3 x[0] - x[1] + 1."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key: tuple[int, int]) -> dict:
        _, index = key
        x = torch.tensor([index / 10, 1 - index / 5])
        return {"x": x, "y": 3 * x[0] - x[1] + 1}


def parse(run_dir, *flags):
    parser = Parser()
    group = parser.add_argument_group("training")
    group.add_argument("--max_train_steps", type=int, default=8)
    add_optimizer_args(group, learning_rate=0.1, lr_scheduler="constant", lr_warmup_steps=0, adam_beta2=0.99)
    add_run_args(group, "")
    add_log_args(group, "toy")
    fixed = ["--output_dir", run_dir, "--num_workers", 0, "--log_every", 1, "--no_wandb", "--mixed_precision", "no"]
    return parser.parse_args([str(word) for word in (*fixed, *flags)])


def train(args, spoil=lambda step, loss: loss):
    """The trainer, as short as one can be."""
    run = TrainingRun(args, "toy", FREE_ON_RESUME, remedies="a smaller --batch_size")
    seed_step(args.seed)
    model = nn.Linear(2, 1)
    if run.resumed:
        model.load_state_dict(run.resumed.tensors["model"])
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, fused=True)
    model = run.prepare(model, optimizer, Points(), 4, args.max_train_steps, lambda: {"model": model.state_dict()})
    with run:
        for batches in run.steps():
            for batch in batches:
                noise = 0.1 * torch.randn(len(batch["y"]))
                loss = (model(batch["x"])[:, 0] - batch["y"] - noise).square().mean()
                run.backward(spoil(run.step, loss), noise=noise.abs().mean())
            run.update()
            if run.due("validate"):
                with run.averaged():
                    run.log({"val/loss": (model(torch.ones(1, 2)) - 3).square().item()})
    return run


def rows(run_dir) -> list[dict]:
    clock = {"time", "train/data_wait_share", "train/steps_per_second"}
    return [{k: v for k, v in row.items() if k not in clock} for row in read_metrics(run_dir / "metrics.jsonl")]


def final(run_dir) -> tuple[dict, dict]:
    return load_checkpoint(list_checkpoints(run_dir)[0])


def test_a_toy_learns_and_leaves_a_run_folder(tmp_path):
    run = train(parse(tmp_path / "run", "--max_train_steps", 60))
    found = rows(tmp_path / "run")
    assert found[-2]["train/loss"] < 0.2 * found[0]["train/loss"] and "train/loss_noise" in found[0]
    assert found[-1].keys() == {"step", "val/loss"} and run.step == 60
    assert {"args.json", "config.toml", "metrics.jsonl", "loss.png", "checkpoint-00000060"} <= set(
        os.listdir(tmp_path / "run")
    )


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_resumed_toy_is_the_one_that_was_never_stopped(tmp_path, accumulation):
    flags = ("--gradient_accumulation_steps", accumulation, "--validate_every", 2)
    train(parse(tmp_path / "whole", *flags))
    for stop in (3, 5, 8):
        train(parse(tmp_path / "parts", *flags, "--max_train_steps", stop, "--resume", "auto"))
    tensors, state = final(tmp_path / "parts")
    expected, expected_state = final(tmp_path / "whole")
    for group, named in expected.items():
        assert all(torch.equal(tensors[group][name], tensor) for name, tensor in named.items()), group
    assert state["step"] == expected_state["step"] == 8 and state["schedule"] == expected_state["schedule"]
    last = {row["step"]: row for row in rows(tmp_path / "whole") if "train/loss" in row}
    assert {row["step"]: row for row in rows(tmp_path / "parts") if "train/loss" in row} == last


def test_a_step_looks_at_its_numbers_once(tmp_path, monkeypatch):
    """A GPU has to finish its work for each look."""
    looks = []

    def counted(name):
        look = getattr(torch.Tensor, name)
        return lambda self, *args: looks.append(name) or look(self, *args)

    for name in ("item", "tolist", "__float__", "__bool__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    found = []
    train(parse(tmp_path / "run"), lambda step, loss: found.append(len(looks)) or loss)
    assert [b - a for a, b in zip(found, found[1:], strict=False)] == [1] * 7, looks


def test_the_workers_leave_with_the_run(tmp_path):
    run = train(parse(tmp_path / "run", "--num_workers", 2))
    assert run.step == 8 and multiprocessing.active_children() == []


def test_a_signal_ends_the_toy_after_its_step_saved(tmp_path, capsys):
    def spoil(step, loss):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    with pytest.raises(Stopped):
        train(parse(tmp_path / "run", "--validate_every", 3), spoil)
    assert final(tmp_path / "run")[1]["step"] == 3
    assert "stopped after step 3 of 8" in capsys.readouterr().out
    assert "val/loss" not in json.dumps(rows(tmp_path / "run"))  # a stop waits for nothing


def test_a_number_that_is_none_ends_the_toy_before_its_weights_change(tmp_path):
    with pytest.raises(Diverged, match="step 3: loss nan.*continues after step 2"):
        train(
            parse(tmp_path / "run", "--checkpoint_every", 2),
            lambda step, loss: loss * torch.nan if step == 2 else loss,
        )
    assert all(torch.isfinite(tensor).all() for tensor in final(tmp_path / "run")[0]["model"].values())


def test_memory_that_ends_is_one_line_with_what_helps(tmp_path):
    def spoil(step, loss):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")

    with pytest.raises(UserError, match="out of memory on this machine.*a smaller --batch_size.*no checkpoint yet"):
        train(parse(tmp_path / "run"), spoil)


def test_state_of_the_trainer_is_saved_and_found_again(tmp_path):
    for stop, before in ((2, None), (4, "kept")):
        args = parse(tmp_path / "run", "--max_train_steps", stop, "--resume", "auto")
        run = TrainingRun(args, "toy", FREE_ON_RESUME, "")
        assert run.state.get("mine") == before and run.step == (0 if before is None else 2)
        run.state["mine"] = "kept"
        model = nn.Linear(2, 1)
        run.prepare(model, torch.optim.SGD(model.parameters(), 0.1), Points(), 4, stop, lambda: {})
        with run:
            for batches in run.steps():
                for batch in batches:
                    run.backward(run.model(batch["x"]).square().mean())
                run.update()


def test_a_loop_without_update_is_told(tmp_path):
    args = parse(tmp_path / "run")
    run = TrainingRun(args, "toy", FREE_ON_RESUME, "")
    model = nn.Linear(2, 1)
    run.prepare(model, torch.optim.SGD(model.parameters(), 0.1), Points(), 4, 8, lambda: {})
    with pytest.raises(RuntimeError, match="has to call update"), run:
        for _ in run.steps():
            pass
