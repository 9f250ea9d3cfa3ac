"""One set of options on every surface: `generate`, `generate_text`, `stream` and the command line say the same."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vedcore
from tests.generation.test_text import TOKENIZERS
from vedcore.cli import main
from vedcore.errors import UsageError, VedcoreError, printable
from vedcore.generation.results import encode_prompt
from vedcore.processing.encoding import encode_text

VIT = {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
BART = {
    "decoder_layers": 1,
    "d_model": 16,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 40,
}
MODELS: dict[str, dict[str, Any]] = {
    "char": {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 40},
    "wordpiece": {
        "name": "roberta",
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 42,
    },
    "metaspace": {"name": "bart", **BART},
    "byte": {"name": "trocr", **BART, "use_learned_position_embeddings": False},
}
"""Decoders by their tokenizer."""


@functools.cache
def model(tokenizer: str) -> Any:
    made = vedcore.compose(VIT, MODELS[tokenizer], tokenizer=TOKENIZERS[tokenizer](), image_size=32, seed=0).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:  # wide enough that texts differ, and near enough that beams do not agree
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.35)
    return made


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Image files; meanwhile the command line loads `model` by the name of its tokenizer."""
    folder = tmp_path_factory.mktemp("images")
    pixels = torch.rand(3, 40, 40, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    files = [folder / f"{i}.png" for i in range(3)]
    for file, values in zip(files, pixels, strict=True):
        Image.fromarray(values).save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vedcore, "load", lambda name, device: model(name))
        yield [str(file) for file in files]


Told = list[tuple[str, float, str]]
"""Text, confidence and reason of each row."""


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """The result of a call, or our error; any other error is raised."""
    try:
        return "ok", call()
    except VedcoreError as error:
        return type(error).__name__, str(error)


def of_generate(made: Any, images: list[str], prompt: str | None, options: dict[str, Any]) -> Told:
    """Result of `generate`, its ids decoded here."""
    if prompt is not None:
        start = options.get("decoder_start_token_id", made.token_ids.start)
        ids = [start, *encode_text(made.processor.tokenizer, prompt)]
        options = {**options, "decoder_input_ids": torch.tensor([ids] * len(images))}
    pixels = made.processor(images=images)["pixel_values"]
    out = made.generate(pixels, **{**options, "return_dict_in_generate": True})
    assert torch.equal(made.generate(pixels, **{**options, "return_dict_in_generate": False}), out.sequences)
    first, told = out.sequences.shape[1] - out.token_logprobs.shape[1], []
    for row, logprobs, length, reason in zip(
        out.sequences, out.token_logprobs.double(), out.lengths, out.finish_reasons, strict=True
    ):
        confidence = math.exp(logprobs[:length].mean()) if length else 0.0
        told.append((made.processor.decode(row[: first + length]), confidence, reason))
    return told


def of_text(made: Any, images: list[str] | str, prompt: str | None, options: dict[str, Any]) -> Told:
    return [(r.text, r.confidence, r.finish_reason) for r in made.generate_text(images, prompt=prompt, **options)]


def shell(*arguments: str) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of ``vedcore generate``."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(["generate", *arguments])
    return end.value.code, out.getvalue(), err.getvalue()


def words(prompt: str | None, options: dict[str, Any], flags: bool) -> list[str]:
    """The options for a shell, by their flags where they have one."""
    said = [] if prompt is None else [f"--prompt={prompt}"]
    for name, value in options.items():
        if flags and name in ("max_new_tokens", "num_beams", "pattern", "allowed_chars"):
            said.append(f"--{name.replace('_', '-')}={value}")
        elif flags and name == "stop_strings":
            said += [f"--stop={string}" for string in value]
        else:
            said += ["--set", f"{name}={json.dumps(value)}"]
    return said


def check(name: str, images: list[str], prompt: str | None, options: dict[str, Any], flags: bool = False) -> None:
    """All surfaces give the same result, or the same error."""
    made = model(name)
    expected = outcome(lambda: of_generate(made, images, prompt, options))
    given_text = outcome(lambda: of_text(made, images, prompt, options))
    code, out, err = shell(name, *images, *words(prompt, options, flags), "--json")
    if expected[0] == "ok":
        assert given_text[0] == "ok"
        assert [(t, r) for t, _, r in given_text[1]] == [(t, r) for t, _, r in expected[1]]
        due = [c for _, c, _ in expected[1]]
        assert [c for _, c, _ in given_text[1]] == pytest.approx(due, abs=1e-6)  # ended rows leave one of the batches
        rows = json.loads(out)
        assert code == 0
        assert [(row["text"], row["confidence"], row["finish_reason"]) for row in rows] == given_text[1]
    else:
        assert given_text == expected
        assert code in (1, 2, 3)
        assert out in ("", "[]\n")
        assert f"error: {expected[1]}\n" in err

    streamed = outcome(lambda: list(made.stream(images[0], prompt=prompt, **options)))
    alone = outcome(lambda: of_text(made, images[0], prompt, options))
    code, out, err = shell(name, images[0], *words(prompt, options, flags), "--stream")
    if alone[0] == "ok" and len(alone[1]) > 1:
        alone = "UsageError", streamed[1]
        assert "texts cannot be one stream" in streamed[1]
    if alone[0] == "ok":
        assert "".join(streamed[1]) == alone[1][0][0]
        assert "" not in streamed[1]
        assert (code, out) == (0, printable(alone[1][0][0]) + "\n")
    else:
        assert streamed == alone or "texts cannot be one stream" in streamed[1]
        assert f"error: {streamed[1]}\n" in err


IDS = st.integers(4, 14)
SAMPLING = st.fixed_dictionaries(
    {"do_sample": st.just(True), "seed": st.integers(0, 99), "temperature": st.sampled_from([0.7, 3.0])},
    optional={
        "top_k": st.sampled_from([2, 20]),
        "top_p": st.just(0.8),
        "min_p": st.just(0.05),
        "typical_p": st.just(0.8),
        "num_return_sequences": st.integers(1, 3),
    },
)
BEAMS = st.fixed_dictionaries(
    {"num_beams": st.integers(2, 4)},
    optional={
        "early_stopping": st.sampled_from([True, "never"]),
        "length_penalty": st.sampled_from([-1.0, 2.0]),
        "num_return_sequences": st.integers(1, 2),
    },
)
GUESSES = st.fixed_dictionaries(
    {"prompt_lookup_num_tokens": st.sampled_from([1, 4])}, optional={"max_matching_ngram_size": st.integers(1, 3)}
)
WAYS = st.one_of(
    st.just({}),
    SAMPLING,
    BEAMS,
    GUESSES,
    st.builds(dict.__or__, SAMPLING, BEAMS),
    st.builds(dict.__or__, SAMPLING, GUESSES),
    st.sampled_from([2, 4]).map(lambda n: {"num_beams": 4, "num_beam_groups": n, "diversity_penalty": 1.0}),
    st.builds(lambda o, ids: {**o, "force_words_ids": [ids]}, BEAMS, st.lists(IDS, min_size=1, max_size=2)),
    st.builds(lambda a, k: {"penalty_alpha": a, "top_k": k}, st.sampled_from([0.3, 0.8]), st.integers(2, 8)),
)
RULES = st.sampled_from(
    [{}, {}, {}, {"pattern": "[a-z]+"}, {"pattern": ".*"}, {"allowed_chars": "theca s"}, {"lexicon": ["the", "cat"]}]
)
EXTRAS = st.fixed_dictionaries(
    {"max_new_tokens": st.sampled_from([1, 4, 12])},
    optional={
        "eos_token_id": st.one_of(st.none(), IDS, st.lists(IDS, min_size=2, max_size=6)),
        "pad_token_id": IDS,
        "min_new_tokens": st.integers(1, 3),
        "stop_strings": st.sampled_from([["a"], ["th", "s"], [" "], ["\ufffd"]]),
        "repetition_stop": st.integers(2, 3),
        "no_repeat_ngram_size": st.integers(1, 3),
        "repetition_penalty": st.just(1.4),
        "suppress_tokens": st.lists(IDS, max_size=3),
        "forced_bos_token_id": IDS,
        "forced_eos_token_id": IDS,
        "decoder_start_token_id": IDS,
        "bad_words_ids": st.lists(st.lists(IDS, min_size=1, max_size=2), min_size=1, max_size=2),
        "output_scores": st.booleans(),
        "return_dict_in_generate": st.booleans(),
        "use_cache": st.booleans(),
    },
)


@settings(max_examples=35, deadline=None)
@given(
    name=st.sampled_from(list(MODELS)),
    count=st.integers(1, 3),
    prompt=st.sampled_from([None, None, "", "the", "a"]),
    way=WAYS,
    rule=RULES,
    extras=EXTRAS,
    flags=st.booleans(),
)
def test_all_surfaces_say_the_same(
    paths: list[str],
    name: str,
    count: int,
    prompt: str | None,
    way: dict[str, Any],
    rule: dict[str, Any],
    extras: dict[str, Any],
    flags: bool,
) -> None:
    check(name, paths[:count], prompt, {**way, **rule, **extras}, flags)


ANY: dict[str, list[Any]] = {
    "max_new_tokens": [3, 0, 60],
    "max_length": [6, 1],
    "min_new_tokens": [1, 4],
    "min_length": [3],
    "seed": [3],
    "do_sample": [False],
    "temperature": [0.5],
    "top_k": [5, 1],
    "top_p": [0.5],
    "num_beams": [1, 2, 4],
    "early_stopping": [True],
    "length_penalty": [0.5],
    "num_beam_groups": [1, 2, 3],
    "diversity_penalty": [0.0, 0.5],
    "force_words_ids": [[[5]], []],
    "penalty_alpha": [0.0, 0.6],
    "num_return_sequences": [1, 3],
    "prompt_lookup_num_tokens": [3],
    "max_matching_ngram_size": [3],
    "eos_token_id": [5, [], 10**6],
    "pattern": ["a+", "("],
    "allowed_chars": ["ab"],
    "lexicon": [["a"]],
    "stop_strings": ["a", ""],
    "repetition_stop": [0, 1, 2],
    "forced_bos_token_id": [5],
    "forced_eos_token_id": [5],
    "suppress_tokens": [[5]],
    "decoder_start_token_id": [4, [4, 5]],
    "output_attentions": [True],
    "num_beam": [2],
    "repetition_penalty": [0.0],
}
CHAOS = st.lists(st.sampled_from(list(ANY)), min_size=2, max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(ANY[name]) for name in names})
)


@settings(max_examples=35, deadline=None)
@given(name=st.sampled_from(list(MODELS)), options=CHAOS)
def test_what_is_at_odds_is_named_on_every_surface(paths: list[str], name: str, options: dict[str, Any]) -> None:
    """The options that an error names contradict each other by themselves, so the error names all that matter."""
    check(name, paths[:1], None, options)
    pixels = model(name).processor(images=paths[:1])["pixel_values"]
    kind, said = outcome(lambda: model(name).generate(pixels, **options))
    if kind == "UsageError":
        named = {key: value for key, value in options.items() if re.search(rf"\b{key}\b", said)}
        assert outcome(lambda: model(name).generate(pixels, **named))[0] == kind


def test_an_unknown_word_stands_behind_the_start_id() -> None:
    """The token of an unknown word is special, but the prompt does not begin with its name."""
    made = model("wordpiece")
    tokens = made.processor.tokenizer.token_to_id
    assert encode_prompt(made.processor, "zebra", 1).tolist() == [[1, tokens("[UNK]")]]
    assert encode_prompt(made.processor, "[UNK]cat", 1).tolist() == [[tokens("[UNK]"), tokens("cat")]]


@pytest.mark.parametrize("prompt", [5, b"a", ["a"]], ids=str)
def test_a_prompt_is_text(paths: list[str], prompt: Any) -> None:
    said = f"prompt: text expected, got {type(prompt).__name__}; give one str for all"
    with pytest.raises(UsageError, match=said):
        model("char").generate_text(paths, prompt=prompt)
    with pytest.raises(UsageError, match=said):
        model("char").stream(paths[0], prompt=prompt)
    if not isinstance(prompt, bytes):
        assert shell("char", paths[0], "--set", f"prompt={prompt}") == (2, "", f"error: {said}\n")
