"""Out of memory, F22 and F23: on a GPU, and on the machine itself."""

import json
import shutil

import numpy as np
import torch

from tests.faults.failures.numbers import in_step
from tests.faults.place import Place, row
from tests.faults.scripts import TRAINERS, out, run
from utils.decoding.probe import probe_video
from utils.runs.checkpoint import list_checkpoints, load_checkpoint

TOO_MUCH = 2**50  # bytes


def gpu_says_no(*_) -> None:
    """Where there is a GPU, it says so itself."""
    if torch.cuda.is_available():
        torch.empty(TOO_MUCH, dtype=torch.uint8, device="cuda")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")


def torch_says_no(*_, **__) -> None:
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def numpy_says_no(*_) -> None:
    np.empty(TOO_MUCH, np.uint8)


def gpu_in_step_3() -> None:
    in_step(3, gpu_says_no)


def torch_in_step_3() -> None:
    in_step(3, torch_says_no)


def numpy_in_a_worker() -> None:
    from torch.utils.data import get_worker_info

    import utils.decoding.read
    import utils.frame_folders.frame_clips

    def in_worker(function):
        return lambda *args, **kwargs: numpy_says_no() if get_worker_info() else function(*args, **kwargs)

    utils.decoding.read.iter_frames = in_worker(utils.decoding.read.iter_frames)
    utils.frame_folders.frame_clips.read_image = in_worker(utils.frame_folders.frame_clips.read_image)


def torch_while_the_network_is_built() -> None:
    import diffusers

    import models.unet3d

    models.unet3d.UNet3D.__init__ = torch_says_no
    diffusers.StableVideoDiffusionPipeline.from_pretrained = torch_says_no


def torch_while_a_checkpoint_is_read() -> None:
    import utils.runs.checkpoint

    utils.runs.checkpoint.load_file = torch_says_no


@row("F22", "out of memory in training names the flags that help, in order, and the newest checkpoint")
def f22(place: Place) -> str:
    flags = {
        "train_text2video": ("--batch_size 4", "--num_frames 4", "--frame_size 16", "--gradient_checkpointing"),
        "train_svd": ("--num_frames 3", "--width 64", "--height 64", "--checkpointing full", "--dry_run"),
    }
    for script in TRAINERS:
        for patch, where in ((gpu_in_step_3, "on the GPU, "), (torch_in_step_3, "on this machine")):
            said = run(place, script, "--checkpoint_every", 2, patch=patch).refused(
                "out of memory", where, *flags[script], f"--resume {out(place, script)} continues after step 2"
            )
            (checkpoint,) = list_checkpoints(out(place, script))
            assert load_checkpoint(checkpoint)[1]["step"] == 2
        ended = run(place, script, "--resume", "latest", patch=torch_while_a_checkpoint_is_read, fresh=False)
        ended.refused("out of memory", "you tried to allocate")
        assert list_checkpoints(out(place, script)) == [checkpoint] and "passing over" not in ended.said
        run(place, script, "--num_workers", 1, patch=numpy_in_a_worker).refused(
            "out of memory on this machine", "Unable to allocate", "there is no checkpoint yet"
        )
        run(place, script, patch=torch_while_the_network_is_built).refused("out of memory", "you tried to allocate")
    return said


def gpu_in_the_second_video() -> None:
    in_forward(2, gpu_says_no)


def torch_in_the_second_video() -> None:
    in_forward(2, torch_says_no)


def in_forward(number: int, says_no) -> None:
    """Memory ends in this forward pass of the network, counted from 1."""
    import diffusers

    import models.unet3d

    networks, count = (models.unet3d.UNet3D, diffusers.UNetSpatioTemporalConditionModel), 0

    def pass_by(module, _):
        nonlocal count
        count += isinstance(module, networks)
        if count == number and isinstance(module, networks):
            says_no()

    torch.nn.modules.module.register_module_forward_pre_hook(pass_by)


def numpy_at_the_second_video() -> None:
    import utils.frame_folders.clip_writer

    probe = utils.frame_folders.clip_writer.probe_video
    utils.frame_folders.clip_writer.probe_video = lambda path, **options: (
        numpy_says_no() if path.stem == "clip_00001" else probe(path, **options)
    )


@row(
    "F23",
    "out of memory in generation names the flags that help; videos before stay, a rerun adds the rest",
)
def f23(place: Place) -> str:
    pictures = [shutil.copy(place.shared.picture, place.folder / f"picture{i}.png") for i in (1, 2, 3)]
    jobs = {
        "generate_text2video": ("--prompts", "a red circle", "a blue square", "a green triangle"),
        "infer_svd": ("--input_image", *pictures),
    }
    flags = {
        "generate_text2video": ("--batch_size 1", "--num_frames 4", "--frame_size 16"),
        "infer_svd": ("--decode_chunk_size 8", "--offload none", "--num_frames 2", "--width 64", "--height 64"),
    }
    for script, what in jobs.items():
        for patch, where in ((gpu_in_the_second_video, "on the GPU, "), (torch_in_the_second_video, "on this machine")):
            said = run(place, script, *what, patch=patch).refused("out of memory", where, *flags[script])
            (video,) = out(place, script).glob("*.mp4")
            assert probe_video(video).frames in (2, 4) and video.with_suffix(".json").exists()
        run(place, script, *what, fresh=False).done("1 of 3 videos are there already", "3 videos")
        assert len(list(out(place, script).glob("*.mp4"))) == 3

    # Preparing a dataset goes on without the video, and the next time tries it again.
    run(place, "prepare_dataset", patch=numpy_at_the_second_video).done("7 clips", "Unable to allocate")
    run(place, "prepare_dataset", fresh=False).done("8 clips")
    rows = (out(place, "prepare_dataset") / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["folder"] for line in rows] == [f"video_{i:04d}" for i in range(1, 9)]
    return said
