"""Scripts in two processes, forked with the imports done, which find each other as torchrun's do."""

import hashlib
import os
import socket
from pathlib import Path

import torch
import yaml

from tests.faults.forked import Script
from tests.faults.place import Ended
from tests.text2video.running import ROOT

TRAIN = ("--preset", "tiny", "--no_wandb", "--mixed_precision", "no", "--log_every", 1)
TRAIN += ("--lr_scheduler", "constant", "--checkpoint_every", 2, "--num_timesteps", 8)


def launch(folder: Path, patch: str, script: str, *flags) -> str:
    """Run a script in two processes; what both said. patch: a function of this file, called in each before it."""
    return "".join(ended.done().said for ended in launched(folder, patch, script, *flags))


def launched(folder: Path, patch: str, script: str, *flags) -> list[Ended]:
    """The same, however it ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    patch = f"{__name__}:{patch}:"
    scripts = [Script(folder / f"{rank}.txt", script, *flags, patch=f"{patch}{rank} {port}") for rank in range(2)]
    return [script.end(300) for script in scripts]


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
