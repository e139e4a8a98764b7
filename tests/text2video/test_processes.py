"""A training of several processes."""

import os
import re
import socket
import subprocess
import sys

import numpy as np
import torch
import yaml

from tests.text2video.running import ROOT, losses
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.runs.model_file import load_model, unpack_model


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_two_processes_share_the_work_and_agree(data, tmp_path):
    """torchrun on the CPU: really two processes, one set of weights; then the prompts are split over two as well."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    common = ["--data_dir", str(data), "--preset", "tiny", "--no_wandb", "--max_train_steps", "3", "--log_every", "1"]
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import hashlib, sys, torch, train_text2video\n"
        "from accelerate import PartialState\n"
        "from models.unet3d import UNet3D\n"
        "built = []\n"
        "init = UNet3D.__init__\n"
        "def remember(self, *args, **kwargs):\n"
        "    init(self, *args, **kwargs)\n"
        "    built.append((self, PartialState().process_index, PartialState().num_processes))\n"
        "UNet3D.__init__ = remember\n"
        "train_text2video.main(train_text2video.parse_args(sys.argv[1:]))\n"
        "unet, rank, processes = built[-1]\n"
        "weights = torch.cat([p.detach().flatten() for p in unet.parameters()])\n"
        "print('PROBE', rank, processes, hashlib.sha256(weights.numpy().tobytes()).hexdigest(), flush=True)\n"
    )
    run = tmp_path / "run"
    result = subprocess.run(
        [*torchrun, str(probe), *common, "--output_dir", str(run)], env=env, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.findall(r"PROBE (\d) 2 (\w{64})", result.stdout)
    assert sorted(rank for rank, _ in found) == ["0", "1"] and len({weights for _, weights in found}) == 1, (
        result.stdout
    )
    assert len(losses(run)) == 3
    command = [
        *torchrun,
        str(ROOT / "generate_text2video.py"),
        "--checkpoint",
        str(run),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    command += ["--prompts", "a red circle", "a blue square", "a green circle", "--num_inference_steps", "2"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 3 and (tmp_path / "out" / "index.html").exists()


def test_fsdp_trains_as_two_whole_copies_do_and_resumes(data, tmp_path):
    """With the settings of configs/accelerate/fsdp.yaml two processes that hold half of each weight take the same steps
    as two with whole ones, and their checkpoint and model files hold whole tensors.

    accelerate offers FSDP to accelerators alone, so the processes claim to be some; all the rest is as there.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    config = yaml.safe_load((ROOT / "configs/accelerate/fsdp.yaml").read_text())["fsdp_config"]
    names = {"fsdp_transformer_layer_cls_to_wrap": "fsdp_transformer_cls_to_wrap"}  # as accelerate launch calls it
    fsdp = {names.get(name, name).upper(): str(value).lower() for name, value in config.items()}
    fsdp["FSDP_TRANSFORMER_CLS_TO_WRAP"] = config["fsdp_transformer_layer_cls_to_wrap"]
    fsdp["ACCELERATE_USE_FSDP"] = "true"
    script = tmp_path / "fsdp.py"
    script.write_text(
        "import sys, torch\n"
        "from accelerate.state import PartialState\n"
        "from accelerate.utils import DistributedType\n"
        "init = PartialState.__init__\n"
        "def as_on_gpus(self, *args, **kwargs):\n"
        "    first = not PartialState._shared_state\n"
        "    init(self, *args, **kwargs)\n"
        "    if first:  # later ones share the state, in which it has become FSDP\n"
        "        self.distributed_type = DistributedType.MULTI_GPU\n"
        "PartialState.__init__ = as_on_gpus\n"
        "import train_text2video\n"
        "from utils.runs import checkpoint\n"
        "whole = checkpoint.whole\n"
        "def count(tensor):\n"
        "    checkpoint.spread_tensors += isinstance(tensor, checkpoint.DTensor)\n"
        "    return whole(tensor)\n"
        "checkpoint.whole, checkpoint.spread_tensors = count, 0\n"
        "train_text2video.main(train_text2video.parse_args(sys.argv[1:]))\n"
        "print('SPREAD', checkpoint.spread_tensors, flush=True)\n"
    )

    def launch(program, run, steps, env, *flags):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
        command += [str(program), "--data_dir", str(data), "--preset", "tiny", "--no_wandb", "--mixed_precision", "no"]
        command += ["--output_dir", str(run), "--max_train_steps", str(steps), "--log_every", "1", *flags]
        command += ["--lr_scheduler", "constant", "--checkpoint_every", "2"]
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    launch(ROOT / "train_text2video.py", tmp_path / "ddp", 4, env)
    output = launch(script, tmp_path / "fsdp", 2, env | fsdp)
    assert int(re.search(r"SPREAD (\d+)", output)[1]) > 100, output
    launch(script, tmp_path / "fsdp", 4, env | fsdp, "--resume", "latest")
    np.testing.assert_allclose(losses(tmp_path / "fsdp"), losses(tmp_path / "ddp"), rtol=1e-4)
    expected, _ = load_checkpoint(list_checkpoints(tmp_path / "ddp")[0])
    found, _ = load_checkpoint(list_checkpoints(tmp_path / "fsdp")[0])
    for group in ("unet", "text_encoder", "ema"):
        torch.testing.assert_close(found[group], expected[group], rtol=1e-3, atol=1e-4)
    unpack_model(load_model(tmp_path / "fsdp"))
