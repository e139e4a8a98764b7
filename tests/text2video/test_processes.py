"""A training of several processes. They are forked with the imports done, and find each other as torchrun's do."""

import hashlib
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.faults.forked import Script
from tests.text2video.running import ROOT, losses
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.runs.model_file import load_model, unpack_model

TRAIN = ("--preset", "tiny", "--no_wandb", "--mixed_precision", "no", "--log_every", 1)
TRAIN += ("--lr_scheduler", "constant", "--checkpoint_every", 2, "--num_timesteps", 8)


def launch(folder: Path, patch: str, script: str, *flags) -> str:
    """Run a script in two processes; what both said. patch: a function of this file, called in each before it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    patch = f"{__name__}:{patch}:"
    scripts = [Script(folder / f"{rank}.txt", script, *flags, patch=f"{patch}{rank} {port}") for rank in range(2)]
    return "".join(script.end(300).done().said for script in scripts)


def as_one_of_two(place: str) -> None:
    """The environment that torchrun gives its processes on a machine without a GPU."""
    rank, port = place.split()
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=port, ACCELERATE_USE_CPU="true")


def with_whole_weights(place: str) -> None:
    """At the end each process tells the digest of its weights."""
    from utils.training.training_run import TrainingRun

    as_one_of_two(place)
    leave = TrainingRun.__exit__

    def tell(self, *error):
        weights = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
        print("PROBE", self.accelerator.process_index, self.accelerator.num_processes, digest, flush=True)
        leave(self, *error)

    TrainingRun.__exit__ = tell


def with_spread_weights(place: str) -> None:
    """The settings of configs/accelerate/fsdp.yaml. At the end each process tells how many spread tensors it saved.

    accelerate offers FSDP to accelerators alone, so the processes claim to be some; all the rest is as there.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from utils.runs import checkpoint
    from utils.training.training_run import TrainingRun

    as_one_of_two(place)
    config = yaml.safe_load((ROOT / "configs/accelerate/fsdp.yaml").read_text())["fsdp_config"]
    os.environ.update({name.upper(): str(value).lower() for name, value in config.items()}, ACCELERATE_USE_FSDP="true")
    # As accelerate launch calls it.
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = config["fsdp_transformer_layer_cls_to_wrap"]
    begin, leave, whole, spread = PartialState.__init__, TrainingRun.__exit__, checkpoint.whole, []

    def as_on_gpus(self, *args, **kwargs):
        first = not PartialState._shared_state
        begin(self, *args, **kwargs)
        if first:  # later ones share the state, in which it has become FSDP
            self.distributed_type = DistributedType.MULTI_GPU

    def count(tensor):
        spread.append(isinstance(tensor, checkpoint.DTensor))
        return whole(tensor)

    def tell(self, *error):
        print("SPREAD", sum(spread), flush=True)
        leave(self, *error)

    PartialState.__init__, checkpoint.whole, TrainingRun.__exit__ = as_on_gpus, count, tell


@pytest.fixture(scope="module")
def whole_weights(data, tmp_path_factory):
    """Three steps of two processes with whole weights: the run folder, and what they said."""
    folder = tmp_path_factory.mktemp("two_processes")
    flags = ("--data_dir", data, "--output_dir", folder / "run", *TRAIN, "--max_train_steps", 3)
    return folder / "run", launch(folder, "with_whole_weights", "train_text2video", *flags)


def test_two_processes_share_the_work_and_agree(whole_weights, tmp_path):
    """One set of weights in both; then the prompts are split over two as well."""
    run, said = whole_weights
    found = re.findall(r"PROBE (\d) 2 (\w{64})", said)
    assert sorted(rank for rank, _ in found) == ["0", "1"] and len({weights for _, weights in found}) == 1, said
    assert len(losses(run)) == 3
    flags = ("--checkpoint", run, "--output_dir", tmp_path / "out", "--num_inference_steps", 2)
    flags += ("--prompts", "a red circle", "a blue square", "a green circle")
    launch(tmp_path, "as_one_of_two", "generate_text2video", *flags)
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 3 and (tmp_path / "out" / "index.html").exists()


@pytest.mark.slow
def test_fsdp_trains_as_two_whole_copies_do_and_resumes(whole_weights, data, tmp_path):
    """Two processes that hold half of each weight take the same steps as two with whole ones, and their checkpoint and
    model files hold whole tensors."""
    expected_run, run = whole_weights[0], tmp_path / "run"
    for name, flags in (("first", (1,)), ("resumed", (3, "--resume", "latest"))):
        (tmp_path / name).mkdir()
        flags = ("--data_dir", data, "--output_dir", run, *TRAIN, "--max_train_steps", *flags)
        said = launch(tmp_path / name, "with_spread_weights", "train_text2video", *flags)
        assert int(re.search(r"SPREAD (\d+)", said)[1]) > 100, said
    np.testing.assert_allclose(losses(run), losses(expected_run), rtol=1e-4)
    expected, _ = load_checkpoint(list_checkpoints(expected_run)[0])
    found, _ = load_checkpoint(list_checkpoints(run)[0])
    for group in ("unet", "text_encoder", "ema"):
        torch.testing.assert_close(found[group], expected[group], rtol=1e-3, atol=1e-4)
    unpack_model(load_model(run))
