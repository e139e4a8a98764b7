"""What the scripts import, for the process that tests/faults/forked.py forks them from."""

# ruff: noqa: E402, F401

import os

os.environ["OMP_NUM_THREADS"] = "1"

import diffusers.optimization
import diffusers.training_utils
import tqdm.auto
from diffusers import StableVideoDiffusionPipeline

import generate_text2video
import infer_svd
import models.diffusion
import models.svd_memory
import prepare_dataset
import train_svd
import train_text2video
import utils.checkpoint
import utils.clip_writer
import utils.generation
import utils.latent_cache
import utils.model_file
import utils.optimizers
import utils.svd_files
import utils.training
