"""wandb and TensorBoard must not stop a training, nor learn what is secret."""

from types import SimpleNamespace

import pytest

from utils.cli import without_secrets
from utils.logs.trackers import Unfailing, start_trackers

TOKEN = "hf_" + "x1" * 17


def test_the_first_failure_of_a_tracker_is_told_and_the_others_are_not(tmp_path, capsys):
    def log(values, step=None):
        raise ConnectionError("no route\nto host \x1b[2J")

    tracker = Unfailing(SimpleNamespace(name="wandb", log=log, finish=lambda: pytest.fail("it has failed")), tmp_path)
    tracker.log({"loss": 1.0}, step=1)
    tracker.log({"loss": 1.0}, step=2)
    tracker.finish()
    said = capsys.readouterr().out
    assert said.count("warning: wandb takes no more logs (no route to host \\x1b[2J); the training goes on") == 1


class Service:
    """An accelerator whose trackers start offline alone."""

    is_main_process = True

    def __init__(self):
        self.tries, self.trackers = [], []

    def init_trackers(self, project, config, init_kwargs):
        self.tries.append((dict(init_kwargs["wandb"]), config))
        self.trackers.append(SimpleNamespace(name="wandb"))
        if init_kwargs["wandb"]["mode"] != "offline":
            raise TimeoutError("no answer")


def test_a_service_that_does_not_answer_is_replaced_by_files_under_the_same_id(tmp_path, monkeypatch, capsys):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    ended = []
    monkeypatch.setattr(wandb, "teardown", lambda: ended.append(True))
    service = Service()
    config = {"learning_rate": 0.1, "revision": TOKEN, "prompts": ["no number"]}
    run_id = start_trackers(service, ["wandb"], "p", tmp_path, config, None)
    (first, told), (second, _) = service.tries
    assert (first["mode"], second["mode"]) == ("online", "offline") and first["id"] == second["id"] == run_id
    assert ended and [type(tracker) for tracker in service.trackers] == [Unfailing]  # the failed one is gone
    assert told == {"learning_rate": 0.1, "revision": "***"}
    assert "wandb: no answer; logging offline, `wandb sync" in capsys.readouterr().out


def test_what_looks_like_a_secret_is_hidden_and_nothing_else():
    secret = {"api_key": "abc", "url": "https://me:pw@host/x?token=abc", "prompts": [f"a {TOKEN}"]}
    assert without_secrets(secret) == {"api_key": "***", "url": "https://***@host/x?token=***", "prompts": ["a ***"]}
    plain = {
        "max_text_tokens": 77,
        "text_encoder": "./hf_encoder_of_mine",
        "seed": 0,
        "revision": "0" * 40,
        "key": None,
    }
    assert without_secrets(plain) == plain
