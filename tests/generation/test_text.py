"""Texts: whole, in pieces, cut by what the user asked for, and how sure the model is of them."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models

import vedcore
from vedcore.errors import GenerationError, TokenizerError, UsageError
from vedcore.generation.stopping import FINISH_REASONS

EOS = [*range(4, 98, 7)]
WORDPIECES = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "the", "cat", "##s", "##ing", ".", ",", "do", "n't", "'", "s", "!"]


def wordpiece() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDPIECES)}))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    return tokenizer


def metaspace() -> tokenizers.Tokenizer:
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁a", "▁", "b", "▁the", "é", "日"]
    tokenizer = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


TOKENIZERS: dict[str, Any] = {
    "char": lambda: "char",
    "byte": lambda: "byte",
    "wordpiece": wordpiece,
    "metaspace": metaspace,
}


PARTS = (
    {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
    {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2},
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def model(request: pytest.FixtureRequest) -> Any:
    """A model that draws almost evenly from all tokens."""
    return vedcore.compose(*PARTS, tokenizer=TOKENIZERS[request.param](), image_size=32, seed=0).eval()


IMAGE = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [{"do_sample": True}, {"do_sample": True, "prompt": ""}, {"do_sample": True, "num_beams": 3}, {}, {"num_beams": 3}],
    ids=str,
)
def test_pieces_make_up_the_text(model: Any, options: dict[str, Any]) -> None:
    several = False
    for seed in range(12):
        draws = {"seed": seed, "temperature": 3.0} if options.get("do_sample") else {}
        options = {**options, **draws, "max_new_tokens": 24}
        [result] = model.generate_text(IMAGE, **options)
        pieces = list(model.stream(IMAGE, **options))
        assert "".join(pieces) == result.text
        assert "" not in pieces
        several |= len(pieces) > 2
    assert several or not options.get("do_sample")


def test_a_stream_says_at_once_what_is_wrong(model: Any) -> None:
    for wrong in ({"num_beam": 2}, {"num_return_sequences": 2, "do_sample": True}, {"max_new_tokens": 10**5}):
        with pytest.raises(UsageError):
            model.stream(IMAGE, **wrong)
    with pytest.raises(UsageError, match="2 images cannot be one stream"):
        model.stream(torch.rand(2, 3, 32, 32))
    with pytest.raises(vedcore.ImageError):
        model.stream("no-such-file.png")


def test_a_stream_leaves_the_mode_alone(model: Any) -> None:
    model.train()
    stream = model.stream(IMAGE, max_new_tokens=5)
    assert model.training
    next(stream, None)
    assert model.training  # while nobody reads on
    stream.close()
    assert model.training
    assert model.decoder.training
    model.eval()


def test_a_model_without_a_tokenizer() -> None:
    model = vedcore.compose(*PARTS, image_size=32, decoder_vocab_size=40, token_ids={"start": 0})
    pixels = torch.rand(1, 3, 32, 32)
    with pytest.raises(UsageError, match="no tokenizer"):
        model.stream(pixels)
    with pytest.raises(UsageError, match="no tokenizer"):
        model.generate_text(IMAGE)
    for option in ({"stop_strings": "a"}, {"pattern": "a"}, {"lexicon": ["a"]}, {"allowed_chars": "a"}):
        with pytest.raises(UsageError, match=rf"{next(iter(option))}: the model has no tokenizer"):
            model.generate(pixels, max_new_tokens=3, **option)


def test_results(pair: Any) -> None:
    model, pixels = pair("bart").ours, pair("bart").pixels
    images = [image.clamp(0, 1) for image in pixels]
    results = model.generate_text(images, eos_token_id=EOS, pad_token_id=2, max_new_tokens=9, batch_size=3)
    pixels = model.processor(images=images)["pixel_values"]
    out = model.generate(pixels, eos_token_id=EOS, pad_token_id=2, max_new_tokens=9, return_dict_in_generate=True)
    logits = model(pixels, decoder_input_ids=out.sequences[:, :-1]).logits.double().log_softmax(-1)
    assert {result.finish_reason for result in results} == {"eos", "length"}
    for i, result in enumerate(results):
        new = out.sequences[i, 1 : 1 + out.lengths[i]]
        log_probs = [float(logits[i, step, token]) for step, token in enumerate(new)]
        assert result.confidence == pytest.approx(math.exp(sum(log_probs) / len(new)), rel=1e-3)
        ended = result.finish_reason == "eos"
        assert [p for _, p in result.tokens] == pytest.approx(
            [math.exp(p) for p in log_probs[: len(new) - ended]], rel=1e-3
        )
        assert result.text == model.processor.decode(out.sequences[i, : 1 + out.lengths[i]])


def test_a_stop_string_ends_a_row_and_stays_in_its_text(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    images = [image.clamp(0, 1) for image in pixels]
    options: dict[str, Any] = {"max_new_tokens": 12, "suppress_tokens": [0, 1, 2]}
    plain = model.generate_text(images, **options)
    for i, result in enumerate(plain):
        stop = result.text[4:6]
        at = result.text.find(stop)
        for count in (1, 3):
            [cut] = model.generate_text(images[i], **options, stop_strings=[stop, "zzzz"][:count])
            assert cut.text == result.text[: at + 2]
            assert cut.finish_reason == "stop_string"
            assert len(cut.tokens) == at + 2
        together = model.generate_text(images, **options, stop_strings=stop)
        assert together[i].text == cut.text  # other rows go on, and without end ids nothing is padded
        assert "".join(model.stream(images[i], **options, stop_strings=stop)) == cut.text


def test_a_repetition_ends_a_row(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    free = model.generate(pixels, max_new_tokens=40)
    for times in (2, 3, 4):
        out = model.generate(pixels, max_new_tokens=40, repetition_stop=times, return_dict_in_generate=True)
        for row, length, reason, all_of_it in zip(
            out.sequences.tolist(), out.lengths, out.finish_reasons, free.tolist(), strict=True
        ):
            new = row[1 : 1 + length]
            assert new == all_of_it[1 : 1 + length]
            ends = [_repeats(new[: i + 1], times) for i in range(len(new))]
            assert ends == [False] * (len(new) - 1) + [reason == "repetition"]


def _repeats(ids: list[int], times: int) -> bool:
    runs = (ids[-size:] for size in range(1, len(ids) // times + 1))
    return any(ids[-len(run) * times :] == run * times for run in runs)


def test_the_clock(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    for beams in (1, 2):
        out = model.generate(pixels, max_time=1e-9, num_beams=beams, return_dict_in_generate=True)
        assert out.sequences.shape == (4, 2)
        assert out.finish_reasons == ("time",) * 4


def test_criteria_of_the_users_own(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    out = model.generate(
        pixels, max_new_tokens=9, stopping_criteria=lambda ids, _: ids.shape[1] > 4, return_dict_in_generate=True
    )
    assert out.sequences.shape == (4, 5)
    assert out.finish_reasons == ("criteria",) * 4
    with pytest.raises(UsageError, match=r"stopping_criteria: a criterion gave something of shape \(2,\) for 4 rows"):
        model.generate(pixels, max_new_tokens=9, stopping_criteria=lambda ids, _: torch.ones(2))
    for name in ("stopping_criteria", "logits_processor", "prefix_allowed_tokens_fn"):
        with pytest.raises(UsageError, match=f"{name}: int cannot be called"):
            model.generate(pixels, max_new_tokens=9, **{name: 3})


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}], ids=str)
def test_texts_that_keep_to_a_rule(pair: Any, options: dict[str, Any]) -> None:
    model, pixels = pair("trocr").ours, pair("trocr").pixels
    images, options = [image.clamp(0, 1) for image in pixels], {**options, "eos_token_id": 1, "pad_token_id": 2}
    for result in model.generate_text(images, pattern=r"\d{2}-[A-C]+", max_new_tokens=8, **options):
        assert re.fullmatch(r"\d{2}-[A-C]+", result.text)
    for result in model.generate_text(images, lexicon=["cat", "dog"], **options):
        assert result.text in ("cat", "dog")
    for result in model.generate_text(images, allowed_chars="01", max_new_tokens=8, **options):
        assert set(result.text) <= set("01")


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_function_that_allows_tokens_knows_the_image(pair: Any, batch_size: int) -> None:
    """The function gets the number of the image among all, whatever the batches."""
    model, images = pair("trocr").ours, [image.clamp(0, 1) for image in pair("trocr").pixels]
    tokenizer = model.processor.tokenizer
    texts = ["12", "34", "cat", "0"]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    found = model.generate_text(
        images,
        batch_size=batch_size,
        eos_token_id=1,
        pad_token_id=2,
        max_new_tokens=8,
        prefix_allowed_tokens_fn=lambda image, row: [*ids[image], *[1] * 9][len(row) - 1 :][:1],
    )
    assert [result.text for result in found] == texts
    with pytest.raises(GenerationError, match="for image 3 after 1 tokens"):
        model.generate_text(
            images, batch_size=batch_size, prefix_allowed_tokens_fn=lambda image, row: [] if image == 3 else [5]
        )
    with pytest.raises(UsageError, match="prefix_allowed_tokens_fn: int cannot be called"):
        model.generate_text(images, prefix_allowed_tokens_fn=3)


def test_prompts(pair: Any) -> None:
    model = pair("bart").ours
    image = pair("bart").pixels[0].clamp(0, 1)
    [result] = model.generate_text(image, prompt="Total: ", max_new_tokens=4)
    assert result.text.startswith("Total: ")
    assert len(result.tokens) == 4
    assert "".join(model.stream(image, prompt="Total: ", max_new_tokens=4)) == result.text
    pixels = model.processor(images=image)["pixel_values"]
    [special] = model.generate_text(image, prompt="<pad>x", max_new_tokens=4)
    start = torch.tensor([[2, model.processor.tokenizer.token_to_id("x")]])
    expected = model.generate(pixels, decoder_input_ids=start, decoder_start_token_id=2, max_new_tokens=4)
    assert special.text == model.processor.decode(expected[0])
    for kind in (torch.int32, torch.int16, torch.uint8):
        same = model.generate(pixels, decoder_input_ids=start.to(kind), decoder_start_token_id=2, max_new_tokens=4)
        assert torch.equal(same, expected)
    with pytest.raises(TokenizerError, match="no token for 'é'"):
        model.generate_text(image, prompt="é")


def test_names_of_tokens_in_prompts(pair: Any) -> None:
    model = copy.deepcopy(pair("bart").ours)
    image, tokenizer = pair("bart").pixels[0].clamp(0, 1), model.processor.tokenizer
    model.add_tokens(["<s_total>"])
    before = tokenizer.to_str()
    pixels, tag, x = model.processor(images=image)["pixel_values"], tokenizer.token_to_id("<s_total>"), 91
    for prompt, ids in (("x<s_total>", [0, x, tag]), ("<s_total>", [0, tag]), ("<s>x", [0, x])):
        [result] = model.generate_text(image, prompt=prompt, max_new_tokens=4)
        expected = model.generate(pixels, decoder_input_ids=torch.tensor([ids]), max_new_tokens=4)
        assert result.text == model.processor.decode(expected[0]), prompt
        assert "".join(model.stream(image, prompt=prompt, max_new_tokens=4)) == result.text
    for prompt in ("</s>", "<s_total><s>"):
        [result] = model.generate_text(image, prompt=prompt, untrusted=True, max_new_tokens=4)
        assert result.text.startswith(prompt)
        assert "".join(model.stream(image, prompt=prompt, untrusted=True, max_new_tokens=4)) == result.text
    assert tokenizer.to_str() == before


def test_a_start_id_for_each_image(pair: Any) -> None:
    model = pair("gpt2").ours
    images, starts = [image.clamp(0, 1) for image in pair("gpt2").pixels], [5, 40, 41, 60]
    together = model.generate_text(images, batch_size=3, max_new_tokens=4, decoder_start_token_id=starts)
    for image, start, result in zip(images, starts, together, strict=True):
        [alone] = model.generate_text(image, max_new_tokens=4, decoder_start_token_id=start)
        assert alone.text == result.text
    with pytest.raises(UsageError, match="2 ids for 4 images"):
        model.generate_text(images, max_new_tokens=4, decoder_start_token_id=starts[:2])


def test_positions_run_out(pair: Any) -> None:
    model, pixels = pair("gpt2").ours, pair("gpt2").pixels
    out = model.generate(pixels, return_dict_in_generate=True)
    assert out.sequences.shape[1] == 64
    assert out.finish_reasons == ("length",) * 4
    with pytest.raises(GenerationError, match="a prompt of 65 tokens, but the decoder has 64 positions"):
        model.generate(pixels, decoder_input_ids=torch.zeros(4, 65, dtype=torch.long))


def test_every_reason_has_a_word() -> None:
    assert FINISH_REASONS == ("length", "eos", "stop_string", "repetition", "criteria", "time")
