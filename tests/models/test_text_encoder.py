"""From captions to embeddings: whole tokenizers only, honest limits, and a clear way out when nothing can be loaded."""

import json
import time

import pytest
import torch
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from models.text_encoder import BUILTIN, builtin_text_encoder, load_tokenizer, train_tokenizer
from tests.conftest import CAPTIONS
from tests.tiny_models import tiny_clip
from utils.cli import UserError
from utils.pretrained.model_folder import load_text_encoder, missing_text_files


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP text model 768 wide, of one random layer, with a byte-pair tokenizer of CLIP's own class and files."""
    return tiny_clip(tmp_path_factory.mktemp("clip"), dim=768)


def test_clip_gives_77_embeddings_768_wide_and_is_frozen(clip_folder):
    encoder = load_text_encoder(str(clip_folder))
    embeddings, mask = encoder.encode(["a red circle moving right", "a blue square"])
    assert embeddings.shape == (2, 77, 768) and encoder.dim == 768
    assert mask.shape == (2, 77) and mask.all()  # CLIP was trained with its padding in sight
    assert not embeddings.requires_grad and not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.train().model.training
    assert not torch.allclose(embeddings[0], embeddings[1])


def test_t5_is_loaded_by_its_encoder_and_masks_its_padding(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS)
    tokenizer.save_pretrained(tmp_path)
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    encoder = load_text_encoder(str(tmp_path), max_length=20)
    embeddings, mask = encoder.encode(["a red circle moving right", "a square"])
    assert embeddings.shape == (2, 7, 32) and encoder.dim == 32 and encoder.max_length == 20
    assert mask.tolist() == [[True] * 7, [True] * 4 + [False] * 3]


def test_padding_of_other_prompts_does_not_change_an_embedding(text_encoder):
    text_encoder.eval()
    alone, _ = text_encoder.encode(["a square"])
    batch, mask = text_encoder.encode(["a square", "the green triangle goes up"])
    torch.testing.assert_close(batch[0][mask[0]], alone[0], rtol=0, atol=1e-6)


def test_builtin_encoder_learns_and_the_frozen_one_does_not(text_encoder, clip_folder):
    text_encoder.encode(CAPTIONS)[0].sum().backward()
    assert all(p.grad is not None for p in text_encoder.parameters())
    assert not load_text_encoder(str(clip_folder)).encode(CAPTIONS)[0].requires_grad


def test_what_is_remembered_is_what_the_model_says(clip_folder, tmp_path):
    tokenizer = train_tokenizer(CAPTIONS)
    tokenizer.save_pretrained(tmp_path)
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    texts = [CAPTIONS[0], "", CAPTIONS[1], CAPTIONS[0]]
    for folder in (clip_folder, tmp_path):
        encoder = load_text_encoder(str(folder), max_length=None if folder is clip_folder else 20)
        expected, expected_mask = encoder.encode([*texts, "the green triangle, unheard of"])
        room = encoder.memory(texts)
        encoder.remember(texts, "cpu")
        assert sum(tokens.nbytes for tokens in encoder.known.values()) == room
        assert not list(encoder.parameters()) and not encoder.state_dict()  # nothing that a device would have to hold
        calls = []
        encoder.model.register_forward_hook(lambda *call, calls=calls: calls.append(call))
        found, mask = encoder.train().encode(texts)
        assert not calls and not found.requires_grad
        again, again_mask = encoder.encode([*texts, "the green triangle, unheard of"])
        assert len(calls) == 1 and torch.equal(again_mask, expected_mask)
        torch.testing.assert_close(again[again_mask], expected[expected_mask], rtol=0, atol=1e-6)
        torch.testing.assert_close(found[mask], expected[:4][expected_mask[:4]], rtol=0, atol=1e-6)


def test_what_a_learning_encoder_says_is_not_kept(text_encoder):
    with pytest.raises(ValueError, match="learns"):
        text_encoder.remember(CAPTIONS, "cpu")


def test_words_that_no_caption_had_are_named(text_encoder):
    assert text_encoder.unknown_words("a purple circle moving sideways") == ["purple", "sideways"]
    assert text_encoder.unknown_words("A RED circle, moving right") == [","]
    assert text_encoder.unknown_words("a red circle moving right") == []


def test_chinese_captions_are_split_into_characters():
    encoder = builtin_text_encoder(train_tokenizer(["红色的圆向右移动", "蓝色的方块"]), dim=16, num_heads=2)
    assert encoder.unknown_words("红色的方块向左移动") == ["左"]


def test_the_end_of_a_long_prompt_is_cut_and_quoted(clip_folder):
    long = "a red circle moving right " * 30 + "and a green triangle"
    for encoder in (load_text_encoder(str(clip_folder)), builtin_text_encoder(train_tokenizer(CAPTIONS), 16)):
        assert encoder.cut("a red circle") == ""
        rest = encoder.cut(long)
        assert rest.endswith("and a green triangle") and long.endswith(rest)
        kept = long[: len(long) - len(rest)]
        assert len(encoder.tokenizer(kept).input_ids) == 77
        assert encoder.encode([long])[0].shape[1] == 77


def test_tokenizer_survives_the_checkpoint(text_encoder):
    again = load_tokenizer(text_encoder.tokenizer.backend_tokenizer.to_str())
    for caption in CAPTIONS:
        assert again(caption).input_ids == text_encoder.tokenizer(caption).input_ids
    assert again.model_max_length == 77 and text_encoder.name == BUILTIN


def test_a_folder_without_vocabulary_is_refused_not_silently_blind(clip_folder, tmp_path):
    """transformers loads it as a tokenizer of two tokens, without an error, and every prompt becomes the same."""
    for path in clip_folder.iterdir():
        if path.name in ("config.json", "model.safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="tokenizer"):
        load_text_encoder(str(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(clip_folder, tmp_path):
    for path in clip_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in tmp_path.glob("*token*"):
        path.unlink()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    other: PreTrainedTokenizerFast = train_tokenizer(["one two three"])
    other.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="tokenizer is not whole"):
        load_text_encoder(str(tmp_path))


def test_without_a_hub_the_error_comes_in_seconds_and_names_three_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        load_text_encoder("openai/clip-vit-large-patch14")
    assert time.monotonic() - started < 10
    for hint in ("--text_encoder FOLDER", "tokenizer.json", "HF_ENDPOINT=", "--text_encoder builtin", "镜像"):
        assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_not_taken_for_a_hub_name():
    with pytest.raises(UserError, match="there is no folder ./weights/clip"):
        load_text_encoder("./weights/clip")


def test_the_missing_files_of_a_model_are_named(tmp_path):
    assert missing_text_files(tmp_path) == ["config.json", "model.safetensors", "tokenizer.json"]
    (tmp_path / "config.json").touch()
    (tmp_path / "vocab.json").touch()
    assert missing_text_files(tmp_path) == ["model.safetensors", "merges.txt"]
    (tmp_path / "merges.txt").touch()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (tmp_path / "model-1.safetensors").touch()
    assert missing_text_files(tmp_path) == ["model-2.safetensors"]
    index.write_text("{")
    assert missing_text_files(tmp_path) == ["a whole model.safetensors.index.json"]
    (tmp_path / "model.fp16.safetensors").touch()
    index.unlink()
    assert missing_text_files(tmp_path) == []
