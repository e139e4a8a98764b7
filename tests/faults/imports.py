"""What the scripts import, for the process that tests/faults/forked.py forks them from."""

# ruff: noqa: E402, F401

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for processes that they start
torch.set_num_threads(1)  # for themselves: torch has read the environment by now

import diffusers.optimization
import diffusers.training_utils
import torch.distributed.fsdp
import tqdm.auto
from diffusers import StableVideoDiffusionPipeline

import generate_text2video
import infer_svd
import models.diffusion.captioned
import models.svd.memory
import prepare_dataset
import train_svd
import train_text2video
import utils.drawing.generator
import utils.frame_folders.clip_writer
import utils.frame_folders.latent_cache
import utils.runs.checkpoint
import utils.runs.model_file
import utils.svd.export
import utils.training.optimizers
import utils.training.training_run
