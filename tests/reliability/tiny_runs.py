"""The command lines of two tiny trainings, text to video and SVD, that the measurements of reliability share."""

from tests.badinput.place import Shared

TRAINERS = ("train_text2video", "train_svd")
# Six clips, of which five are trained on, two at a time: five steps are two epochs, other stops lie inside one. Dropout
# of the text or of the image is on, and so is the moving average.
COMMON = (
    *("--max_samples", 6, "--batch_size", 2, "--mixed_precision", "no", "--no_wandb", "--num_workers", 0),
    *("--learning_rate", 1e-3, "--lr_warmup_steps", 3, "--lr_scheduler", "cosine"),
    *("--log_every", 1, "--validate_every", 4, "--sample_every", 1_000_000),
)
TEXT2VIDEO = (
    *("--preset", "tiny", "--optimizer", "muon", "--text_dropout", 0.5),
    *("--num_timesteps", 10, "--validation_prompts", "a red circle"),
)
SVD = (
    *("--num_frames", 3, "--width", 64, "--height", 64, "--conditioning_dropout_prob", 0.5),
    *("--num_validation_clips", 1, "--num_inference_steps", 1, "--save_trainable_only"),
)


def command(trainer: str, shared: Shared) -> tuple:
    """The flags of a tiny training; more may follow, which then have the last word."""
    if trainer == "train_text2video":
        return ("--data_dir", shared.data, *TEXT2VIDEO, *COMMON)
    return ("--pretrained_model_name", shared.svd, "--dataset_dir", shared.frames, *SVD, *COMMON)
