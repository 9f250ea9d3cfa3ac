"""Tokens that were added to a tokenizer alone: special ones load with a warning, ordinary ones are refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, models

import vedcore

ROWS = 20
WORDS = ["<s>", "</s>", "<unk>", *(f"w{index}" for index in range(ROWS - 3))]
PIXELS = torch.zeros(1, 3, 16, 16)


def decoder(kind: str) -> Any:
    if kind == "bert":
        return hf.BertConfig(
            vocab_size=ROWS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20
        )
    return hf.GPT2Config(
        vocab_size=ROWS, n_embd=16, n_layer=1, n_head=2, n_positions=20, bos_token_id=0, eos_token_id=1
    )


def made(folder: Path, kind: str, added: list[AddedToken], pad: int = 1) -> Path:
    """A folder of transformers whose tokenizer has more tokens than its decoder has rows."""
    vit = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, image_size=16, patch_size=8
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, decoder(kind))
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 0, 1, pad
    model = hf.VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id, model.generation_config.pad_token_id = 0, pad
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.add_tokens(added)
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


def warned(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return call(), [str(warning.message) for warning in caught]


PAD = AddedToken("[PAD]", special=True)


@pytest.mark.parametrize("pad", [1, ROWS], ids=["another pad", "the added pad"])
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_an_added_pad_token_loads_with_one_warning(tmp_path: Path, kind: str, pad: int) -> None:
    folder = made(tmp_path / "m", kind, [PAD], pad)
    model, said = warned(lambda: vedcore.load(folder))
    (line,) = said
    for word in ("[PAD]", f"({ROWS})", f"resize_vocabulary({ROWS + 1})"):
        assert word in line
    assert model.decoder.vocab_size == ROWS
    assert model.token_ids == vedcore.TokenIds(start=0, eos=(1,), pad=pad if pad < ROWS else None)
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    expected = theirs.generate(PIXELS, max_new_tokens=5, do_sample=False)
    assert model.generate(PIXELS, max_new_tokens=5).tolist() == expected.tolist()
    for format in ("native", "transformers"):
        model.save_pretrained(tmp_path / format, format=format)
        again, said = warned(lambda format=format: vedcore.load(tmp_path / format))
        assert ["[PAD]" in line for line in said] == [True]
        assert (again.token_ids.start, again.token_ids.eos) == (0, (1,))
        assert again.processor.tokenizer.token_to_id("[PAD]") == ROWS


def test_parts_with_added_tokens_compose(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "gpt2", [PAD, AddedToken("<s_total>", special=True)])
    hf.GPT2LMHeadModel(decoder("gpt2")).save_pretrained(tmp_path / "text")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "text" / name).write_bytes((folder / name).read_bytes())
    for part in (folder, tmp_path / "text"):
        model, said = warned(lambda part=part: vedcore.compose("vit", str(part), encoder_num_hidden_layers=1))
        assert model.decoder.vocab_size == ROWS
        assert sum("[PAD]" in line and "<s_total>" in line for line in said) == 1


def test_the_use_of_an_added_token_is_an_error_until_the_vocabulary_is_resized(tmp_path: Path) -> None:
    model, _ = warned(lambda: vedcore.load(made(tmp_path / "m", "gpt2", [PAD, AddedToken("<x>", special=True)])))
    first, last = ROWS, ROWS + 1
    uses: list[tuple[int, Callable[[], Any]]] = [
        (last, lambda: model(PIXELS, labels=torch.tensor([[3, last]]))),
        (last, lambda: model(PIXELS, decoder_input_ids=torch.tensor([[0, last]]))),
        (last, lambda: model.generate(PIXELS, decoder_input_ids=torch.tensor([[0, last]]), max_new_tokens=2)),
        (first, lambda: setattr(model, "token_ids", model.token_ids.changed(pad=first))),
        (first, lambda: model.generate(PIXELS, pad_token_id=first, max_new_tokens=2)),
        (last, lambda: model.generate(PIXELS, eos_token_id=[1, last], max_new_tokens=2)),
        (last, lambda: model.generate(PIXELS, forced_bos_token_id=last, max_new_tokens=2)),
        (last, lambda: model.generate(PIXELS, bad_words_ids=[[last]], max_new_tokens=2)),
    ]
    for token, use in uses:
        with pytest.raises(vedcore.ConfigError, match=rf"\b{token}\b.*model\.resize_vocabulary\({token + 1}\)"):
            use()
    with pytest.raises(vedcore.UsageError, match=r"labels run from 3 to 21 \('<x>'\)"):
        uses[0][1]()
    model.resize_vocabulary(last + 1)
    for _, use in uses:
        use()
    assert model.token_ids.pad == first


@pytest.mark.parametrize(
    "added",
    [[AddedToken("hello")], [PAD, AddedToken("hello")], [AddedToken("a"), PAD]],
    ids=["ordinary", "special and ordinary", "ordinary and special"],
)
def test_ordinary_tokens_beyond_the_vocabulary_are_refused(tmp_path: Path, added: list[AddedToken]) -> None:
    folder = made(tmp_path / "m", "gpt2", added)
    with pytest.raises(vedcore.IncompatibleError, match=f"below {ROWS}"):
        vedcore.load(folder)
    with pytest.raises(vedcore.IncompatibleError, match=f"below {ROWS}"):
        vedcore.compose("vit", str(folder), encoder_num_hidden_layers=1)


def test_the_vocabulary_of_a_larger_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "gpt2", [])
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["vocab_size"] = ROWS - 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(vedcore.IncompatibleError, match=f"{ROWS} tokens, the decoder {ROWS - 4}"):
        vedcore.load(folder)
