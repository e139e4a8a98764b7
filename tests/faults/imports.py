"""What the trainers import, for the process that tests/faults/forked.py forks them from."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import diffusers.optimization  # noqa: E402, F401
import diffusers.training_utils  # noqa: E402, F401
import tqdm.auto  # noqa: E402, F401
from diffusers import StableVideoDiffusionPipeline  # noqa: E402, F401

import generate_text2video  # noqa: E402, F401
import infer_svd  # noqa: E402, F401
import models.diffusion  # noqa: E402, F401
import models.svd_memory  # noqa: E402, F401
import train_svd  # noqa: E402, F401
import train_text2video  # noqa: E402, F401
import utils.generation  # noqa: E402, F401
import utils.latent_cache  # noqa: E402, F401
import utils.model_file  # noqa: E402, F401
import utils.optimizers  # noqa: E402, F401
import utils.svd_files  # noqa: E402, F401
import utils.training  # noqa: E402, F401
