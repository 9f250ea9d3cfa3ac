"""Hints of `generate`, `generate_text` and `stream`, each given and followed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import vedcore
from tests.hints.templates import told
from tests.model.tiny import EOS, IMAGE, START, VOCABULARY, ids, spread, tiny
from vedcore.cli.app import main
from vedcore.processing.tokenizers import make_tokenizer

PICTURE = Image.new("RGB", (40, 30), (10, 90, 200))
NO_TOKENIZER = "give tokenizer= to vedcore.load or compose, or put a tokenizer.json into the model's folder"


@pytest.fixture(scope="module")
def model() -> Any:
    made = tiny("bert").eval()
    spread(made, 3)
    return made


@pytest.fixture(scope="module")
def reader() -> Any:
    made = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98).eval()
    spread(made, 5)
    return made


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, *IMAGE, generator=torch.Generator().manual_seed(0))


class Streamer:
    """Keeps the tokens that it gets."""

    def __init__(self) -> None:
        self.tokens: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        self.tokens.append(value)

    def end(self) -> None:
        pass


def written(model: Any, pixels: Tensor, **options: Any) -> Tensor:
    """(N, L) ids of five new tokens, whatever they are."""
    return model.generate(pixels, **{"max_new_tokens": 5, "eos_token_id": (), **options})


# -- functions of the caller ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logits_processor", "stopping_criteria"])
def test_functions(model: Any, pixels: Tensor, name: str) -> None:
    hint = "give a function as generate describes it, or a list of them"
    for wrong in (3, [3], "function"):
        told(hint, model.generate, pixels, **{name: wrong})
    function = (lambda row, scores: scores) if name == "logits_processor" else (lambda row, scores: False)
    for right in (function, [function]):
        assert torch.equal(written(model, pixels, **{name: right}), written(model, pixels))


@pytest.mark.parametrize("wrong", [3, [lambda image, row: [4]], "function"], ids=["number", "list", "text"])
def test_a_function_of_allowed_tokens(model: Any, pixels: Tensor, wrong: Any) -> None:
    told("give a function of (image, ids)", model.generate, pixels, prefix_allowed_tokens_fn=wrong)
    out = written(model, pixels, prefix_allowed_tokens_fn=lambda image, row: [4 + image])
    assert out[:, 1:].tolist() == [[4] * 5, [5] * 5]


@pytest.mark.parametrize("answer", [[], [VOCABULARY], None, ["a"]], ids=str)
def test_tokens_that_are_allowed(model: Any, pixels: Tensor, answer: Any) -> None:
    hint = "return a list of ids below {…}, an end id at least"
    error = told(hint, model.generate, pixels, prefix_allowed_tokens_fn=lambda image, row: answer)
    below = int(error.hint.split("below ")[1].split(",")[0])
    out = model.generate(pixels, prefix_allowed_tokens_fn=lambda image, row: [EOS, below - 1], max_new_tokens=4)
    assert set(out[:, 1:].flatten().tolist()) <= {EOS, below - 1, 1}
    out = model.generate(pixels, prefix_allowed_tokens_fn=lambda image, row: [EOS])
    assert out.tolist() == [[START, EOS]] * 2


@pytest.mark.parametrize("answer", [None, torch.zeros(2)], ids=["nothing", "shape"])
def test_scores_that_are_returned(model: Any, pixels: Tensor, answer: Any) -> None:
    told("return the scores", model.generate, pixels, logits_processor=lambda row, scores: answer)
    out = written(model, pixels, logits_processor=lambda row, scores: scores.index_fill(1, torch.tensor([7]), 1e9))
    assert (out[:, 1:] == 7).all()


@pytest.mark.parametrize("answer", [None, torch.zeros(3), [True, False]], ids=["nothing", "shape", "list"])
def test_an_answer_of_a_criterion(model: Any, pixels: Tensor, answer: Any) -> None:
    hint = "give a bool, or a tensor of one for each row"
    told(hint, model.generate, pixels, stopping_criteria=lambda row, scores: answer)
    for right in (True, torch.tensor([True, True])):
        out = written(model, pixels, stopping_criteria=lambda row, scores, right=right: right)
        assert out.shape == (2, 2)


def test_a_streamer(model: Any, pixels: Tensor) -> None:
    told("pass an object with both methods", model.generate, pixels, streamer=print)
    streamer = Streamer()
    out = written(model, pixels, streamer=streamer)
    assert torch.equal(torch.stack(streamer.tokens[1:], 1), out[:, 1:])


# -- prompts and images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [ids(2)[0], ids(2).float(), ids(2)[:, :0]], ids=["row", "float", "empty"])
def test_prompts_of_a_wrong_shape(model: Any, pixels: Tensor, wrong: Tensor) -> None:
    hint = "give whole numbers of shape (N, T), at least one of each"
    told(hint, model.generate, pixels, decoder_input_ids=wrong)
    for right in (ids(2), ids(2).int()):
        assert written(model, pixels, decoder_input_ids=right)[:, 1:8].tolist() == ids(2).tolist()


def test_a_mask_of_prompts(model: Any, pixels: Tensor) -> None:
    prompt = torch.cat([torch.full((2, 1), START), ids(2, 3)], 1)
    plain = written(model, pixels, decoder_input_ids=prompt)
    given = {"decoder_input_ids": prompt, "decoder_attention_mask": torch.ones(2, 9)}
    told("give one number a token", model.generate, pixels, **given)
    assert torch.equal(written(model, pixels, **{**given, "decoder_attention_mask": torch.ones(2, 4)}), plain)

    shorter, pad, counts = prompt[1:, :3], torch.ones(1, 1, dtype=torch.long), torch.ones(2, 4)
    counts[1, 3] = 0
    right = torch.cat([prompt[:1], torch.cat([shorter, pad], 1)])
    told("pad at the left", model.generate, pixels, decoder_input_ids=right, decoder_attention_mask=counts)
    left = torch.cat([prompt[:1], torch.cat([pad, shorter], 1)])
    out = written(model, pixels, decoder_input_ids=left, decoder_attention_mask=counts.flip(1))
    assert torch.equal(out[0], plain[0])
    assert torch.equal(out[1, 1:], written(model, pixels[1:], decoder_input_ids=shorter)[0])


def test_a_prompt_for_each_image(model: Any, pixels: Tensor) -> None:
    told("give one for each image", model.generate, pixels, decoder_input_ids=ids(3))
    assert len(written(model, pixels, decoder_input_ids=ids(2))) == 2


def test_images_given_twice_or_never(model: Any, pixels: Tensor) -> None:
    plain, encoded = written(model, pixels), model.encode(pixels)
    told("give the images once", model.generate, pixels, inputs=pixels)
    assert torch.equal(written(model, None, inputs=pixels), plain)
    told("encoder_outputs come from model.encode", model.generate, pixels, encoder_outputs=encoded)
    told("encoder_outputs come from model.encode", model.generate)
    assert torch.equal(written(model, None, encoder_outputs=encoded), plain)


@pytest.mark.parametrize("call", ["generate_text", "stream"])
def test_prompts_of_text(reader: Any, call: str) -> None:
    def text(**options: Any) -> str:
        out = getattr(reader, call)(PICTURE, max_new_tokens=3, **options)
        return out[0].text if call == "generate_text" else "".join(out)

    told("give one str for all", text, prompt=["No. "])
    assert text(prompt="No. ").startswith("No. ")
    reader.token_ids, kept = reader.token_ids.changed(start=None), reader.token_ids
    told("give a text, or leave it out", text, prompt="")
    assert text(prompt="No. ").startswith("No. ")
    reader.token_ids = kept
    assert text(prompt="") == text()


# -- the cache --------------------------------------------------------------------------------------------------------

CACHE = "give what an earlier call returned with use_cache=True"


@pytest.fixture
def begun(model: Any, pixels: Tensor) -> Any:
    """The output of a call, with its cache."""
    return written(model, pixels, return_dict_in_generate=True, use_cache=True)


def test_something_else_as_a_cache(model: Any, pixels: Tensor, begun: Any) -> None:
    told(CACHE, go_on, model, begun, past_key_values=(torch.zeros(1),))
    whole = written(model, pixels, max_new_tokens=9)
    assert torch.equal(go_on(model, begun), whole)


def go_on(model: Any, begun: Any, **options: Any) -> Tensor:
    """Four tokens more than what was begun."""
    given = {"decoder_input_ids": begun.sequences, "past_key_values": begun.past_key_values, **options}
    return written(model, None, max_new_tokens=4, **given)


def test_a_cache_of_another_model(model: Any, pixels: Tensor, begun: Any) -> None:
    hint = "give one of this model's"
    whole = written(model, pixels, max_new_tokens=9)
    deeper = tiny("bert", decoder_num_hidden_layers=3)
    other = written(deeper, pixels, return_dict_in_generate=True)
    told(hint, go_on, model, other)
    wider = tiny("bert", decoder_num_attention_heads=4)
    other = written(wider, pixels, return_dict_in_generate=True)
    told(hint, go_on, model, other)
    assert torch.equal(go_on(model, begun), whole)


def test_a_cache_of_other_rows(model: Any, pixels: Tensor, begun: Any) -> None:
    whole = written(model, pixels, max_new_tokens=9)
    hint = "give decoder_input_ids for each of its rows"
    told(hint, go_on, model, begun, decoder_input_ids=begun.sequences[:1])
    assert torch.equal(go_on(model, begun), whole)


def test_a_cache_that_leaves_nothing_to_read(model: Any, pixels: Tensor, begun: Any) -> None:
    whole = written(model, pixels, max_new_tokens=9)
    hint = "give the whole text so far as decoder_input_ids, with a token or more that are not in the cache"
    told(hint, go_on, model, begun, decoder_input_ids=begun.sequences[:, :-1])
    told(hint, go_on, model, begun, decoder_input_ids=begun.sequences[:, -1:])
    assert torch.equal(go_on(model, begun), whole)


def test_a_cache_that_is_not_used(model: Any, pixels: Tensor, begun: Any) -> None:
    whole = written(model, pixels, max_new_tokens=9)
    told("pass use_cache=True, or leave it out", go_on, model, begun, use_cache=False)
    assert torch.equal(
        written(model, pixels, decoder_input_ids=begun.sequences, max_new_tokens=4, use_cache=False), whole
    )
    own = tiny("bert")
    spread(own, 3)
    own.generation_config = vedcore.GenerationConfig(use_cache=False)
    told("pass use_cache=True, or leave it out", go_on, own, begun)
    assert torch.equal(go_on(own, begun, use_cache=True), whole)


def test_a_search_without_a_cache_of_the_callers(model: Any, pixels: Tensor, begun: Any) -> None:
    for options in ({"penalty_alpha": 0.5, "top_k": 4}, {"prompt_lookup_num_tokens": 3}):
        told("leave it out", go_on, model, begun, **options)
        assert written(model, pixels, decoder_input_ids=begun.sequences, max_new_tokens=4, **options).shape == (2, 10)


# -- another model, another tokenizer ---------------------------------------------------------------------------------


def test_an_assistant(model: Any, pixels: Tensor, tmp_path: Path) -> None:
    plain = written(model, pixels)
    hint = "give what vedcore.load or vedcore.compose gave"
    model.save_pretrained(tmp_path / "model")
    for wrong in (str(tmp_path / "model"), model.decoder):
        told(hint, model.generate, pixels, assistant_model=wrong)
    for right in (vedcore.load(tmp_path / "model"), tiny("gpt2")):
        assert torch.equal(written(model, pixels, assistant_model=right), plain)
    error = told("pass draft=None, or leave it out", model.generate, pixels, assistant_model=model, draft="int8")
    assert error.field == "assistant_model"
    assert torch.equal(written(model, pixels, assistant_model=model, draft=None), plain)
    told(
        "give a model with the same tokenizer",
        model.generate,
        pixels,
        assistant_model=tiny("gpt2", decoder_vocab_size=60),
    )


def test_a_tokenizer_for_stop_strings(model: Any, pixels: Tensor) -> None:
    told("pass tokenizer= to generate, or leave them out", model.generate, pixels, stop_strings=["a"])
    told("give a tokenizer, or leave it out", model.generate, pixels, stop_strings=["a"], tokenizer="char")
    first = written(model, pixels)[:, 1:]
    tokenizer = make_tokenizer("char")
    stop = tokenizer.id_to_token(int(first[0, 1]))
    out = written(model, pixels[:1], stop_strings=[stop], tokenizer=tokenizer)
    assert out.shape[1] <= 3
    assert torch.equal(written(model, pixels)[:, 1:], first)


def test_rules_without_a_tokenizer(model: Any, pixels: Tensor) -> None:
    hint = "leave it out, or give tokenizer=, such as a tokenizer.json, to vedcore.load or compose"
    for rule in ({"allowed_chars": "abc"}, {"pattern": "[abc]+"}, {"lexicon": ["a", "b"]}):
        told(hint, model.generate, pixels, **rule)
    assert len(written(model, pixels)) == 2
    made = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    out = made.generate(pixels, allowed_chars="abc", max_new_tokens=4)
    assert set("".join(made.processor.batch_decode(out))) <= set("abc")


Shell = Callable[..., tuple[int, str]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A command's exit code, and all that it writes."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(map(str, arguments)))
        return int(end.value.code or 0), "".join(capsys.readouterr())

    return call


def test_texts_without_a_tokenizer(shell: Shell, tmp_path: Path) -> None:
    make_tokenizer("char").save(str(tmp_path / "tokenizer.json"))
    PICTURE.save(tmp_path / "a.png")
    bare = tiny("bert", decoder_vocab_size=98)
    told(NO_TOKENIZER, bare.generate_text, PICTURE)
    told(NO_TOKENIZER, bare.stream, PICTURE)
    composed = tiny("bert", decoder_vocab_size=98, tokenizer=str(tmp_path / "tokenizer.json"))
    assert composed.generate_text(PICTURE, max_new_tokens=3)[0].finish_reason in ("length", "eos")
    for format_ in ("native", "transformers"):
        folder = tmp_path / format_
        bare.save_pretrained(folder, format=format_)
        loaded = vedcore.load(folder, tokenizer=str(tmp_path / "tokenizer.json"))
        text = loaded.generate_text(PICTURE, max_new_tokens=3)[0].text
        command = ("generate", folder, tmp_path / "a.png", "--json", "--max-new-tokens", "3")
        code, output = shell(*command)
        assert (code, NO_TOKENIZER in output) == (2, True)
        (folder / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
        code, output = shell(*command)
        assert code == 0
        assert json.loads(output[output.index("[") : output.index("]") + 1])[0]["text"] == text


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_of_several_texts(reader: Any, shell: Shell, tmp_path: Path) -> None:
    hint = "pass 1, or take them whole: from generate_text, or without --stream in a shell"
    options = {"num_return_sequences": 2, "do_sample": True, "seed": 1, "max_new_tokens": 4}
    told(hint, reader.stream, PICTURE, **options)
    assert "".join(reader.stream(PICTURE, **{**options, "num_return_sequences": 1})) is not None
    assert len(reader.generate_text(PICTURE, **options)) == 2
    PICTURE.save(tmp_path / "a.png")
    reader.save_pretrained(tmp_path / "model")
    command = ["generate", str(tmp_path / "model"), str(tmp_path / "a.png"), "--do-sample", "--max-new-tokens", "4"]
    command += ["--set", "num_return_sequences=2", "--set", "seed=1"]
    assert hint in shell(*command, "--stream")[1]
    assert shell(*command)[0] == 0


def test_a_stream_of_several_images(reader: Any, pixels: Tensor, shell: Shell, tmp_path: Path) -> None:
    told("call stream for each", reader.stream, pixels)
    for image in pixels:
        assert isinstance("".join(reader.stream(image[None], max_new_tokens=3)), str)
    path = tmp_path / "pages.tif"
    PICTURE.save(path, save_all=True, append_images=[PICTURE.rotate(90)])
    hint = "choose one: pages={…}, or --pages {…} in a shell"
    told(hint, reader.stream, path)
    whole = reader.generate_text(path, pages=1, max_new_tokens=3)[0].text
    assert "".join(reader.stream(path, pages=1, max_new_tokens=3)) == whole
    reader.save_pretrained(tmp_path / "model")
    command = ("generate", str(tmp_path / "model"), str(path), "--stream", "--max-new-tokens", "3")
    assert "choose one: pages=1, or --pages 1 in a shell" in shell(*command)[1]
    assert shell(*command, "--pages", "1")[0] == 0


def test_a_streamer_of_several_texts(model: Any, pixels: Tensor) -> None:
    hint = "give one image, or {…}"
    for options, off in (
        ({"num_beams": 2}, {"num_beams": 1}),
        ({"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": None}),
        ({"assistant_model": model}, {"assistant_model": None}),
    ):
        error = told(hint, model.generate, pixels, streamer=Streamer(), **options)
        assert error.hint.endswith(("pass num_beams=1", "pass prompt_lookup_num_tokens=None", "leave it out"))
        for images, changed in ((pixels[:1], options), (pixels, off)):
            streamer = Streamer()
            out = written(model, images, streamer=streamer, **changed)
            assert torch.equal(torch.cat([t.reshape(len(images), -1) for t in streamer.tokens], 1), out)


def test_batches_and_errors(reader: Any, tmp_path: Path) -> None:
    told("give 1 or more", reader.generate_text, PICTURE, batch_size=0)
    assert len(reader.generate_text([PICTURE] * 2, batch_size=1, max_new_tokens=2)) == 2
    told("give 'raise' or 'return'", reader.generate_text, PICTURE, on_error="ignore")
    (tmp_path / "a.png").write_bytes(b"no image")
    [result] = reader.generate_text(tmp_path / "a.png", on_error="return", max_new_tokens=2)
    assert result.finish_reason == "error"
    with pytest.raises(vedcore.ImageError):
        reader.generate_text(tmp_path / "a.png", on_error="raise", max_new_tokens=2)


# -- scores -----------------------------------------------------------------------------------------------------------


def test_transition_scores(model: Any, pixels: Tensor) -> None:
    asked = {"return_dict_in_generate": True, "output_scores": True}
    hint = "give out.sequences and out.scores of generate(return_dict_in_generate=True, output_scores=True)"
    without = written(model, pixels, return_dict_in_generate=True)
    told(hint, model.compute_transition_scores, without.sequences, without.scores)
    told(hint, model.compute_transition_scores, without, ())
    out = written(model, pixels, **asked)
    assert model.compute_transition_scores(out.sequences, out.scores).shape == (2, 5)
    beams = written(model, pixels, num_beams=3, **asked)
    told("give out.beam_indices of the same call", model.compute_transition_scores, beams.sequences, beams.scores)
    scores = model.compute_transition_scores(beams.sequences, beams.scores, beams.beam_indices)
    assert scores.sum(1) / 5 == pytest.approx(beams.sequences_scores, abs=1e-4)
    hint = "give sequences, scores and beam_indices of one call"
    told(hint, model.compute_transition_scores, out.sequences, out.scores, beams.beam_indices)
    told(hint, model.compute_transition_scores, beams.sequences, beams.scores, beams.beam_indices[:1])


# -- numbers that are none, rows without a token ----------------------------------------------------------------------


def test_numbers_that_are_not_finite(pixels: Tensor) -> None:
    hint = "check the weights and the images for NaN, or run in float32"
    model = tiny("gpt2")
    plain = written(model, pixels)
    told(hint, model.generate, pixels.index_fill(3, torch.tensor([0]), torch.nan))
    told(hint, model.generate, pixels.index_fill(3, torch.tensor([0]), torch.nan), num_beams=2)
    assert torch.equal(written(model, pixels), plain)
    with torch.no_grad():
        kept = model.decoder.final_norm.weight.clone()
        model.decoder.final_norm.weight[0] = torch.nan
        told(hint, model.generate, pixels)
        model.decoder.final_norm.weight.copy_(kept)
    assert torch.equal(written(model, pixels), plain)
    with torch.no_grad():
        model.decoder.final_norm.weight.fill_(60000.0)
    model.half()
    told(hint, model.generate, pixels)
    assert len(written(model.float(), pixels)) == 2


def test_scores_that_are_not_numbers(model: Any, pixels: Tensor) -> None:
    hint = "check logits_processor, or relax what bars tokens"
    told(hint, model.generate, pixels, logits_processor=lambda row, scores: scores * torch.nan)
    assert torch.equal(written(model, pixels, logits_processor=lambda row, scores: scores), written(model, pixels))
    every = {"suppress_tokens": list(range(VOCABULARY)), "renormalize_logits": True}
    told(hint, model.generate, pixels, **every)
    out = written(model, pixels, **{**every, "suppress_tokens": list(range(VOCABULARY - 1))})
    assert (out[:, 1:] == VOCABULARY - 1).all()


def test_rows_without_a_token(model: Any, pixels: Tensor) -> None:
    hint = "relax what bars tokens, as no_repeat_ngram_size or suppress_tokens, or pass a smaller max_new_tokens"
    bars = {"suppress_tokens": list(range(VOCABULARY - 3)), "no_repeat_ngram_size": 1, "eos_token_id": ()}
    for options in ({}, {"num_beams": 2}, {"do_sample": True, "seed": 1}):
        told(hint, model.generate, pixels, max_new_tokens=5, **bars, **options)
        assert written(model, pixels, **bars, **options, max_new_tokens=3).shape == (2, 4)
        assert written(model, pixels, **{**bars, "no_repeat_ngram_size": 2}, **options, max_new_tokens=5).shape == (
            2,
            6,
        )


def test_more_end_ids_than_beams_can_pass(pixels: Tensor) -> None:
    model = tiny("gpt2", token_ids={"start": 0, "pad": 0}, decoder_vocab_size=8)
    hint = "pass num_beams=1, or fewer end ids"
    options = {"num_beams": 4, "eos_token_id": list(range(8)), "max_new_tokens": 4}
    told(hint, model.generate, pixels, **options)
    for change in ({"num_beams": 1}, {"eos_token_id": [5]}):
        assert len(model.generate(pixels, **{**options, **change})) == 2
