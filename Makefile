# make help

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP_FLAGS ?=
DEMO_DATA := demo_video_data
DEMO_RUN := checkpoints/demo
DEMO_VIDEOS := generated_videos/demo
DEMO256_DATA := demo256_video_data
DEMO256_VAE := checkpoints/demo256_vae
DEMO256_RUN := checkpoints/demo256
DEMO256_VIDEOS := generated_videos/demo256
SVD_DEMO := svd_demo
LEROBOT_PYTHON ?= python3.12
LEROBOT := .lerobot

.DEFAULT_GOAL := help
.PHONY: help demo demo256 svd-demo test benchmark-tests slow-tests badinput damage faults reliability lerobot-check audit lint format \
    clean

help: ## what there is to make
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q $(PIP_FLAGS) -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(PY) -m pip install -q $(PIP_FLAGS) -r requirements-dev.txt
	@touch $@

demo: $(VENV)/installed ## data, training, videos and their score from nothing on a CPU: first it says how long; resumes when typed again
	@$(PY) -m benchmarks.text2video.demo_time --data_dir $(DEMO_DATA) --run_dir $(DEMO_RUN)
	$(PY) video_dataset.py --output_dir $(DEMO_DATA)
	$(PY) train_text2video.py --preset demo --data_dir $(DEMO_DATA) --output_dir $(DEMO_RUN) --resume auto --no_wandb
	$(PY) evaluate_text2video.py --checkpoint $(DEMO_RUN) --data_dir $(DEMO_DATA) --output_dir $(DEMO_VIDEOS) --batch_size 16

demo256: $(VENV)/installed ## the same at 16 frames of 256x256, in latents of an autoencoder that it trains first; resumes when typed again
	$(PY) video_dataset.py --num_clips 1500 --num_frames 16 --frame_size 256 --output_dir $(DEMO256_DATA)
	$(PY) train_autoencoder.py --preset small --data_dir $(DEMO256_DATA) --output_dir $(DEMO256_VAE) --max_train_steps 700 \
	    --resume auto --no_wandb
	$(PY) train_text2video.py --preset demo256 --data_dir $(DEMO256_DATA) --vae $(DEMO256_VAE) \
	    --latent_cache $(DEMO256_DATA)/latents --output_dir $(DEMO256_RUN) --resume auto --no_wandb
	$(PY) evaluate_text2video.py --checkpoint $(DEMO256_RUN) --data_dir $(DEMO256_DATA) --output_dir $(DEMO256_VIDEOS)

svd-demo: $(VENV)/installed ## SVD end to end in minutes with a tiny random model: shows that everything runs, not what SVD can do
	$(PY) -m tests.tiny_svd $(SVD_DEMO)/tiny_svd
	$(PY) video_dataset.py --output_dir $(SVD_DEMO)/clips --num_clips 16
	$(PY) prepare_dataset.py --video_dir $(SVD_DEMO)/clips/videos --output_dir $(SVD_DEMO)/dataset_root
	$(PY) train_svd.py --pretrained_model_name $(SVD_DEMO)/tiny_svd --dataset_dir $(SVD_DEMO)/dataset_root \
	    --output_dir $(SVD_DEMO)/outputs --num_frames 8 --width 64 --height 64 --learning_rate 1e-3 --max_train_steps 100 \
	    --num_inference_steps 10 --num_workers 0 --resume auto --no_wandb
	$(PY) infer_svd.py --model_dir $(SVD_DEMO)/outputs --output_dir $(SVD_DEMO)/videos --num_inference_steps 10 --visualize \
	    --input_image $(SVD_DEMO)/dataset_root/video_000[1-6]/00000.png

test: $(VENV)/installed-dev ## the test suite, on the CPU
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 40 -m "not benchmarks and not slow"

benchmark-tests: $(VENV)/installed-dev ## the tests of the benchmarks, which take longer than what they protect is worth each time
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 10 -m benchmarks

slow-tests: $(VENV)/installed-dev ## tests of learning and of several processes that take half a minute each
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal --durations 10 -m slow

badinput: $(VENV)/installed-dev ## what the scripts make of 93 bad inputs, a line each
	OMP_NUM_THREADS=1 $(PY) -m tests.badinput

damage: $(VENV)/installed-dev ## what the reader makes of 300 damaged videos, and its memory over 10,000 opens
	OMP_NUM_THREADS=1 $(PY) -m tests.decoding.limits.fuzz
	OMP_NUM_THREADS=1 $(PY) -m tests.decoding.limits.opens

faults: $(VENV)/installed-dev ## what the scripts make of faults: kills, signals, full disks, damaged files, a line each
	OMP_NUM_THREADS=1 $(PY) -m tests.faults

reliability: $(VENV)/installed-dev ## exact resuming, kill -9, damaged checkpoints, time to an error, hostile input: the figures, in minutes
	OMP_NUM_THREADS=1 $(PY) -m tests.reliability.resume_exact
	OMP_NUM_THREADS=1 $(PY) -m tests.reliability.resume_exact --mutate
	OMP_NUM_THREADS=1 $(PY) -m tests.reliability.kill9
	OMP_NUM_THREADS=1 $(PY) -m tests.reliability.corrupt
	OMP_NUM_THREADS=1 $(PY) -m tests.reliability.time_to_error
	OMP_NUM_THREADS=1 $(PY) -m tests.security

$(LEROBOT)/installed: tests/lerobot/check/requirements.txt
	@$(LEROBOT_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' \
	    || { echo "lerobot needs Python 3.12 or newer: make LEROBOT_PYTHON=... lerobot-check"; exit 2; }
	$(LEROBOT_PYTHON) -m venv $(LEROBOT)
	$(LEROBOT)/bin/python -m pip install -q $(PIP_FLAGS) torch==2.13.0 -r tests/lerobot/check/requirements.txt
	$(LEROBOT)/bin/python -m pip install -q $(PIP_FLAGS) --no-deps lerobot==0.6.1 torchvision==0.28.0
	@touch $@

lerobot-check: $(VENV)/installed-dev $(LEROBOT)/installed ## lerobot itself opens a dataset of ours and trains on it
	$(PY) -m tests.lerobot.check.write $(LEROBOT)/dataset
	HF_HUB_OFFLINE=1 $(LEROBOT)/bin/python tests/lerobot/check/lerobot_itself.py $(LEROBOT)/dataset

audit: $(VENV)/installed ## known vulnerabilities of the installed packages, by pip-audit in a folder of its own
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install -q $(PIP_FLAGS) pip-audit
	$(PY) -m tests.security.audit

lint: $(VENV)/installed-dev ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/installed-dev ## ruff: apply the format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove what the demo made (not .venv)
	rm -rf $(DEMO_DATA) $(DEMO_RUN) $(DEMO_VIDEOS) $(SVD_DEMO) $(DEMO256_DATA) $(DEMO256_VAE) $(DEMO256_RUN) $(DEMO256_VIDEOS)
