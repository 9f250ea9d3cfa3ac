"""States for the searches to run on: tiny random transformers models, and tables without any model."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import vedcore
from vedcore.config import TokenIds
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.request import Request
from vedcore.generation.search import search
from vedcore.outputs import GenerateOutput
from vedcore.processing.tokenizers import make_tokenizer, vocab_size_of

VOCAB = 40


def _spread(model: Any, scale: float) -> Any:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale, generator=generator)
    return model.eval()


class GPT2State:
    """A transformers GPT2 over its own cache, reordered by index; or without one, over all ids anew."""

    abilities = frozenset[Any]()

    def __init__(self, model: Any, mask: Tensor | None = None, use_cache: bool = True) -> None:
        self.model, self.mask, self.use_cache, self.cache, self.ids = model, mask, use_cache, None, None
        self.reordered = 0

    def prefill(self, input_ids: Tensor) -> Tensor:
        self.mask = torch.ones_like(input_ids) if self.mask is None else self.mask
        self.ids = input_ids
        return self._logits(input_ids.shape[1])

    def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        if reorder is not None:
            self.reordered += 1
            self.ids, self.mask = self.ids[reorder], self.mask[reorder]
            if self.cache is not None:
                self.cache.batch_select_indices(reorder)
        self.ids = torch.cat([self.ids, tokens], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], 1)
        return self._logits(1 if self.use_cache else self.ids.shape[1])

    def keep(self, going_on: Any) -> None:
        pass

    def _logits(self, new: int) -> Tensor:
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        out = self.model(
            input_ids=self.ids[:, -new:],
            attention_mask=self.mask,
            position_ids=positions[:, -new:],
            past_key_values=self.cache,
            use_cache=self.use_cache,
        )
        self.cache = out.past_key_values if self.use_cache else None
        return out.logits[:, -1]


class EncoderDecoderState:
    """A transformers encoder-decoder model, without a cache."""

    abilities = frozenset[Any]()

    def __init__(self, model: Any, encoder_states: Tensor) -> None:
        self.model, self.states, self.ids = model, encoder_states, None

    def prefill(self, input_ids: Tensor) -> Tensor:
        self.ids = input_ids
        return self._logits()

    def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        if reorder is not None:
            self.ids, self.states = self.ids[reorder], self.states[reorder]
        self.ids = torch.cat([self.ids, tokens], 1)
        return self._logits()

    def keep(self, going_on: Any) -> None:
        pass

    def _logits(self) -> Tensor:
        return self.model(encoder_outputs=(self.states,), decoder_input_ids=self.ids, use_cache=False).logits[:, -1]


class TableState:
    """A Markov chain: the logits (V, V) depend on the last token; those of ``faults`` (step, row) are replaced."""

    abilities = frozenset[Any]()

    def __init__(self, table: Tensor, faults: dict[tuple[int, int], float] | None = None) -> None:
        self.table, self.faults, self.calls = table, faults or {}, 0

    def prefill(self, input_ids: Tensor) -> Tensor:
        return self._logits(input_ids[:, -1])

    def step(self, tokens: Tensor, reorder: Tensor | None) -> Tensor:
        return self._logits(tokens[:, 0])

    def keep(self, going_on: Any) -> None:
        pass

    def _logits(self, last: Tensor) -> Tensor:
        logits = self.table[last].clone()
        for (step, row), value in self.faults.items():
            if step == self.calls:
                logits[row, 1] = value
        self.calls += 1
        return logits


@pytest.fixture(scope="session")
def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=24,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="eager",
        tie_word_embeddings=False,
    )
    return _spread(GPT2LMHeadModel(config), 0.4)


@pytest.fixture(scope="session")
def bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=VOCAB,
        d_model=24,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    model = _spread(BartForConditionalGeneration(config), 0.5)
    model.generation_config.forced_eos_token_id = None
    return model


@pytest.fixture(scope="session")
def vit_bert() -> Any:
    from transformers import BertConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    encoder = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, image_size=16, patch_size=8
    )
    decoder = BertConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=64,
        is_decoder=True,
        add_cross_attention=True,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return _spread(VisionEncoderDecoderModel(config), 0.5)


@pytest.fixture(scope="session")
def gpt2_state() -> type[GPT2State]:
    return GPT2State


@pytest.fixture(scope="session")
def encoder_decoder_state() -> type[EncoderDecoderState]:
    return EncoderDecoderState


@pytest.fixture(scope="session")
def table_state() -> type[TableState]:
    return TableState


@pytest.fixture(scope="session")
def run() -> Callable[..., GenerateOutput]:
    """A search as a model runs it: options, token ids and limits from the keywords of a call."""

    def run(
        state: Any,
        prompt: Tensor,
        *,
        mask: Tensor | None = None,
        positions: int | None = 64,
        vocab: int = VOCAB,
        streamer: Any = None,
        **options: Any,
    ) -> GenerateOutput:
        config = GenerationConfig().with_options(**options)
        ids = config.token_ids(TokenIds(), vocab)
        limits = config.limits(prompt.shape[1], positions)
        return search(state, Request(prompt, config, ids, limits, mask), streamer)

    return run


TEXT_VOCAB = 98  # that of the tokenizer of printable ASCII
START = 0

_CROSS = {"is_decoder": True, "add_cross_attention": True}
_BERT = {
    "vocab_size": TEXT_VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
    **_CROSS,
}
_BART = {
    "vocab_size": TEXT_VOCAB,
    "d_model": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
    "eos_token_id": 1,
    "forced_eos_token_id": None,
    **_CROSS,
}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _BERT),
    "roberta": ("RobertaConfig", {**_BERT, "max_position_embeddings": 67}),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": TEXT_VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64, **_CROSS},
    ),
    "bart": ("BartConfig", _BART),
    "mbart": ("MBartConfig", _BART),
    "trocr": ("TrOCRConfig", {**_BART, "cross_attention_hidden_size": 24}),
    "trocr-sinusoid": (
        "TrOCRConfig",
        {**_BART, "cross_attention_hidden_size": 24, "use_learned_position_embeddings": False},
    ),
}
"""Decoders by family: the class of transformers' config, and what is set."""


class Pair(NamedTuple):
    """One model in both libraries; neither has end ids or a pad id."""

    ours: Any
    theirs: Any
    tokenizer: Any
    """The same tokenizer, wrapped by transformers."""
    pixels: Tensor
    """(4, 3, 16, 16)."""

    def generate(self, options: dict[str, Any], theirs: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Outputs of both for the same options, or for ``theirs``; transformers gets what it needs besides."""
        options = {**options, "return_dict_in_generate": True}
        ours = self.ours.generate(self.pixels, **options)
        told = {**(options if theirs is None else theirs), "return_dict_in_generate": True}
        if told.get("stop_strings"):
            told["tokenizer"] = self.tokenizer
        with torch.no_grad():
            return ours, self.theirs.generate(self.pixels, **{"pad_token_id": None, "max_length": None, **told})


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Tiny random whole models by the name of the decoder, written by transformers and opened by vedcore."""
    import transformers as hf

    @functools.cache
    def pair(family: str, seed: int = 0, tokenizer: str = "char") -> Pair:
        name, fields = WHOLE[family]
        words = make_tokenizer(tokenizer)
        vit = hf.ViTConfig(
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        )
        fields = {**fields, "vocab_size": vocab_size_of(words)}
        text = getattr(hf, name)(**fields)
        config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, text)
        config.decoder_start_token_id, config.pad_token_id = START, 2
        torch.manual_seed(seed)
        theirs = hf.VisionEncoderDecoderModel(config).eval()
        theirs.set_attn_implementation("eager")  # no other gives attentions
        with torch.no_grad():
            for key, parameter in theirs.named_parameters():
                norm = key.endswith("weight") and ("norm" in key.lower() or ".ln_" in key)
                parameter.normal_(0, 0.4).add_(float(norm))
        folder = tmp_path_factory.mktemp(family)
        theirs.save_pretrained(folder)
        wrapped = hf.PreTrainedTokenizerFast(
            tokenizer_object=words,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            clean_up_tokenization_spaces=False,
        )
        wrapped.save_pretrained(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = vedcore.load(folder)
        theirs.generation_config = hf.GenerationConfig(decoder_start_token_id=START)
        ours.token_ids = TokenIds(start=START)
        ours.generation_config = GenerationConfig()
        pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        return Pair(ours, theirs, wrapped, pixels)

    return pair
