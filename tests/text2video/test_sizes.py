"""Training on frames that are not square, and on clips of several shapes."""

import shutil

import pytest
from PIL import Image

import train_text2video
from models.autoencoder import VideoAutoencoder
from tests.clips import moving_clip
from tests.data.folders import add_clip
from tests.text2video.running import losses, train
from tests.tiny_autoencoders import tiny_autoencoder
from utils.evaluation.samples import TrainingClips
from utils.runs.checkpoint import list_checkpoints
from utils.runs.model_file import load_model
from utils.runs.new_model import noise_shift_of
from video_dataset import TextVideoDataset


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Wide and high clips of ten and of five frames, and two pictures."""
    folder = tmp_path_factory.mktemp("mixed")
    for n, (frames, height, width) in enumerate([(10, 32, 48), (10, 48, 32), (5, 32, 48), (5, 48, 32), (10, 32, 48)]):
        add_clip(folder, f"clip{n}", moving_clip(frames, height, width), f"clip {n} moves")
    for n in range(2):
        Image.new("RGB", (48, 32), ("red", "blue")[n]).save(folder / "videos" / f"picture{n}.png")
        (folder / "captions" / f"picture{n}.txt").write_text(f"picture {n}")
    return folder


def test_frames_may_be_wider_than_high(mixed, tmp_path):
    train(mixed, tmp_path / "run", "--height", "16", "--width", "24", "--max_train_steps", "2")
    model = load_model(tmp_path / "run" / "best_model.pth")
    assert (model["height"], model["width"]) == (16, 24)


def test_the_automatic_noise_shift_is_of_what_the_network_sees(mixed):
    argv = ["--data_dir", str(mixed), "--num_frames", "32", "--height", "128", "--width", "256"]
    args = train_text2video.parse_args([*argv, "--noise_shift", "auto"])
    assert noise_shift_of(args) == 8  # 64 times a quarter of 16x64x64
    autoencoder = VideoAutoencoder(tiny_autoencoder("AutoencoderKL"))
    assert autoencoder.layout.space == 4 and noise_shift_of(args, autoencoder) == 4  # 32x32x64: 16 times 64x64
    args.noise_shift = 1.5
    assert noise_shift_of(args, autoencoder) == 1.5


def test_a_run_on_buckets_and_pictures_resumes_to_the_bit(mixed, tmp_path):
    flags = ["--buckets", "24x16x8", "16x24x8", "24x16x4", "16x24x4", "--image_share", "0.3", "--batch_size", "2"]
    flags += ["--val_fraction", "0.5"]  # clips of several shapes validate
    flags += ["--max_train_steps", "8", "--checkpoint_every", "3", "--validate_every", "4", "--sample_every", "8"]
    train(mixed, tmp_path / "whole", *flags)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(list_checkpoints(tmp_path / "parts")[0])  # as if it had been stopped after step 6
    train(mixed, tmp_path / "parts", *flags, "--resume", "latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 8


def test_evaluation_leaves_out_of_the_clips_what_training_did_and_what_is_too_short(mixed, tmp_path):
    flags = ["--buckets", "24x16x8", "24x16x4", "--num_frames", "8", "--height", "16", "--width", "24"]
    train(mixed, tmp_path / "run", *flags, "--max_train_steps", "1")
    model = load_model(tmp_path / "run" / "best_model.pth")
    assert model["data"]["min_frames"] == 4
    reading = {"num_frames": 8, "frame_size": (16, 24), **model["data"]}
    parts = [TextVideoDataset(mixed, **reading, augment=False, split=split) for split in ("train", "val")]
    assert sorted(len(part) for part in parts) == [1, 4]
    compared = [TrainingClips(part) for part in parts]
    assert sum(map(len, compared)) == 3 and all(clip.shape == (8, 16, 24, 3) for part in compared for clip in part)


def test_sizes_that_the_network_cannot_take_are_refused(mixed, tmp_path, capsys):
    for flags, said in (
        (["--width", "25"], "--width: got 25, must be a multiple of"),
        (["--buckets", "25x16x8"], "--buckets 25x16x8: got 25, must be a multiple of"),
        (["--buckets", "24x16"], "must be width x height x frames"),
    ):
        with pytest.raises(SystemExit) as ended:
            train(mixed, tmp_path / "run", *flags)
        assert ended.value.code == 2 and said in capsys.readouterr().err
