"""Running the SVD scripts in tests, with a tiny random pipeline."""

import infer_svd
import train_svd
from utils.logs.metrics import read_metrics

FRAMES = 4


def train(pipeline_dir, dataset, output_dir, *flags):
    argv = ["--pretrained_model_name", pipeline_dir, "--dataset_dir", dataset, "--output_dir", output_dir]
    argv += ["--num_frames", FRAMES, "--width", 64, "--height", 64, "--mixed_precision", "no", "--no_wandb"]
    argv += ["--num_inference_steps", 2, "--num_workers", 0, "--learning_rate", "1e-3", "--log_every", 1]
    argv += ["--num_validation_clips", 1, "--sample_every", 100]
    train_svd.main(train_svd.parse_args([str(word) for word in (*argv, *flags)]))


def infer(*flags):
    argv = (*flags, "--num_inference_steps", 2)
    infer_svd.main(infer_svd.parse_args([str(word) for word in argv]))


def losses(run_dir):
    return [row["train/loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "train/loss" in row]
