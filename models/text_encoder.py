"""TextEncoder: captions to token embeddings, from a pretrained model or a small one trained along with the U-Net.

Pretrained: the text tower of CLIP ViT-L/14 by default (Radford et al. 2021, arXiv:2103.00020), 768 wide, 77 tokens; or
T5 and others that transformers loads as text encoders. Built in: a two-layer CLIPTextModel and a word tokenizer, both
learnt from the captions, for machines that no hub reaches and for captions of a few hundred words.
"""

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

BUILTIN = "builtin"


class TextEncoder(nn.Module):
    """A tokenizer and a text model.

    trainable: whether the model learns with the U-Net (the built-in one) or is frozen and kept in eval mode.
    max_length: tokens per prompt, the two special ones included; longer prompts are cut, see `cut`.
    """

    def __init__(
        self,
        name: str,
        tokenizer,
        model: nn.Module,
        trainable: bool,
        max_length: int | None = None,
        revision: str | None = None,
    ):
        super().__init__()
        self.name, self.revision, self.tokenizer, self.model = name, revision, tokenizer, model
        self.trainable = trainable
        limit = getattr(model.config, "max_position_embeddings", None) or 512
        self.max_length = min(max_length or limit, limit)
        # CLIP was trained with padding in sight; everything else must not see it.
        self.masks_padding = name == BUILTIN or model.config.model_type not in ("clip", "clip_text_model")
        check_tokenizer(tokenizer, model.config.vocab_size, name)
        self.known: dict[str, Tensor] = {}
        self.device: torch.device | None = None  # of the embeddings, once the model has left it
        if not trainable:
            self.model.requires_grad_(False)
        self.train(self.training)

    @property
    def dim(self) -> int:
        """Width D of the embeddings."""
        return self.model.config.hidden_size

    def train(self, mode: bool = True):
        super().train(mode)
        return self if self.trainable else super().train(False)

    def forward(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token embeddings (B, L, D) and their mask (B, L), True for tokens that count. L is at most max_length."""
        if self.device is None:
            return self.compute(texts)
        self.learn(texts)
        found = [self.known[text] for text in texts]
        embeddings = pad_sequence(found, batch_first=True)
        lengths = torch.tensor([len(tokens) for tokens in found])
        mask = torch.arange(embeddings.shape[1]) < lengths[:, None]
        return embeddings.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)

    def compute(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """What forward returns, by the model."""
        tokens = self.tokenizer(
            list(texts),
            padding="longest" if self.masks_padding else "max_length",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            # Without padding there is nothing to mask, and with CLIP's there is nothing masked.
            attention_mask = tokens.attention_mask if self.masks_padding else None
            embeddings = self.model(input_ids=tokens.input_ids, attention_mask=attention_mask).last_hidden_state
        mask = tokens.attention_mask.bool() if self.masks_padding else torch.ones_like(tokens.attention_mask).bool()
        return embeddings, mask

    def remember(self, texts: list[str], device: torch.device | str, progress: bool = False) -> None:
        """Compute the embeddings of these texts on the device, once, and keep them in memory; then the model leaves.

        From here on forward looks them up and brings them to the device; a new text is computed on the CPU when it
        comes. The model is no submodule any more: nothing moves it, wraps it or spreads it over processes. progress:
        show a bar.
        Raises ValueError for a model that learns, whose embeddings change.
        """
        if self.trainable:
            raise ValueError("the embeddings of a text encoder that learns cannot be kept")
        self.model.to(device)
        self.learn(texts, progress=progress)
        model = self.model.to("cpu")
        del self.model
        self.__dict__["model"] = model
        self.device = torch.device(device)

    def learn(self, texts: list[str], batch_size: int = 32, progress: bool = False) -> None:
        """Compute what is not known yet; all of the tokens that count are kept, (L, D) each, on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        starts = range(0, len(new), batch_size)
        for start in tqdm(starts, desc="reading captions", unit="batch", disable=None if progress and new else True):
            batch = new[start : start + batch_size]
            embeddings, mask = self.compute(batch)
            for text, tokens, counts in zip(batch, embeddings.cpu(), mask.cpu(), strict=True):
                self.known[text] = tokens[counts].clone()

    def memory(self, texts: list[str]) -> int:
        """Bytes that their embeddings take, at most."""
        padded = not self.masks_padding
        tokens = self.tokenizer(list(dict.fromkeys(texts)), truncation=True, max_length=self.max_length).input_ids
        return sum(self.max_length if padded else len(ids) for ids in tokens) * self.dim * 4

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """The same as forward, under the name users look for."""
        return self(texts)

    def cut(self, text: str) -> str:
        """The end of a prompt that does not fit into max_length tokens; "" if all of it fits."""
        tokens = self.tokenizer(text, return_offsets_mapping=True)
        special = self.tokenizer.num_special_tokens_to_add()
        if len(tokens.input_ids) <= self.max_length:
            return ""
        offsets = [span for span in tokens.offset_mapping if span[1] > span[0]]
        return text[offsets[self.max_length - special][0] :]

    def unknown_words(self, text: str) -> list[str]:
        """Words of a prompt that the built-in encoder never saw in a caption (it cannot know what they mean)."""
        if self.name != BUILTIN:
            return []
        tokens = self.tokenizer(text, return_offsets_mapping=True)
        unknown = self.tokenizer.unk_token_id
        return [text[a:b] for i, (a, b) in zip(tokens.input_ids, tokens.offset_mapping, strict=True) if i == unknown]

    def remarks(self, captions: list[str]) -> list[str]:
        """What to know about captions before training on them: some are cut, or in a script that CLIP never learnt."""
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        cut = [text for text in captions if len(text.encode()) >= room and self.cut(text)]
        remarks = []
        if cut:
            many = f"{len(cut)} of {len(captions)} captions are"
            remarks.append(f"{many} cut after {self.max_length} tokens, such as {cut[0][:60]!r} ...")
        text = "".join(captions)
        foreign = sum(c > "\u024f" and c.isalpha() for c in text)  # beyond Latin
        if not self.masks_padding and 2 * foreign > sum(map(str.isalpha, text)):
            way_out = "--text_encoder builtin learns any script"
            remarks.append(f"{self.name} reads English, most of the captions are not; {way_out}")
        return remarks


def check_tokenizer(tokenizer, vocab_size: int, name: str) -> None:
    """Raises ValueError unless the tokenizer belongs to the model and tells two texts apart.

    A folder without its vocabulary files loads as a tokenizer of two tokens and without any error: every prompt becomes
    the same ids, and training goes on without text. T5 pads its table, so the tokenizer may be a little smaller than
    the model's.
    """
    different = tokenizer("a red car drives").input_ids != tokenizer("2 dogs 狗 sleep ; blue").input_ids
    if not different or not 0.9 * vocab_size <= len(tokenizer) <= vocab_size:
        raise ValueError(
            f"{name}: the tokenizer is not whole: {len(tokenizer)} tokens for a model of {vocab_size}. "
            "Its files (tokenizer.json, or vocab.json and merges.txt, or spiece.model) are missing or of another model"
        )


def train_tokenizer(captions: list[str], vocab_size: int = 16384, max_length: int = 77) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words of the captions (lower case; Chinese characters one by one)."""
    tokenizer = Tokenizer(WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    tokenizer.train_from_iterator(captions, WordLevelTrainer(vocab_size=vocab_size, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<eos>")]
    )
    return load_tokenizer(tokenizer.to_str(), max_length)


def load_tokenizer(tokenizer_json: str, max_length: int = 77) -> PreTrainedTokenizerFast:
    """The tokenizer back from its JSON text, as it stands in a checkpoint."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=max_length,
    )


def builtin_text_encoder(
    tokenizer: PreTrainedTokenizerFast, dim: int = 128, num_layers: int = 2, num_heads: int = 4
) -> TextEncoder:
    """A small CLIPTextModel with random weights around a tokenizer, to be trained together with the U-Net."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    encoder = TextEncoder(BUILTIN, tokenizer, CLIPTextModel(config), trainable=True)
    # CLIP's own scale of 0.02 is that of its position table: for hundreds of steps a word would count no more than its
    # place in the sentence.
    nn.init.normal_(encoder.model.get_input_embeddings().weight)
    return encoder
