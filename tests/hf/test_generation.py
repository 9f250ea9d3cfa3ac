"""Generation settings of transformers' folders, read and written: the same texts as transformers'."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import ConfigError, ConfigLimitError, ConfigSchemaError, UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.request import Request
from vedcore.generation.search import search
from vedcore.hf.generation import (
    read_generation,
    read_generation_config,
    within_positions,
    write_generation,
    write_ids,
)
from vedcore.loss import shift_tokens_right

VOCAB, POSITIONS = 40, 32
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
GENERATION, CONFIG = "generation_config.json", "config.json"


class State:
    """transformers' model, all ids anew at each step."""

    abilities = frozenset[Any]()

    def __init__(self, model: Any) -> None:
        self.model, self.states, self.ids = model, model.encoder(PIXELS).last_hidden_state, None

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
        with torch.no_grad():
            out = self.model(encoder_outputs=(self.states,), decoder_input_ids=self.ids, use_cache=False)
        return out.logits[:, -1]


@pytest.fixture(scope="module", params=["gpt2", "trocr", "mbart", "bert"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers as t

    width = {"d_model": 24, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 32}
    decoder = {
        "gpt2": lambda: t.GPT2Config(
            vocab_size=VOCAB, n_embd=24, n_layer=1, n_head=4, n_positions=POSITIONS, bos_token_id=1, eos_token_id=2
        ),
        "trocr": lambda: t.TrOCRConfig(vocab_size=VOCAB, max_position_embeddings=POSITIONS, **width),
        "mbart": lambda: t.MBartConfig(vocab_size=VOCAB, max_position_embeddings=POSITIONS, **width),
        "bert": lambda: t.BertConfig(
            vocab_size=VOCAB,
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=POSITIONS,
        ),
    }[request.param]()
    encoder = t.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, image_size=16, patch_size=8
    )
    torch.manual_seed(5)
    model = t.VisionEncoderDecoderModel(t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "position" not in name and "wpe" not in name:
                parameter.normal_(0, 0.6)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved folder, whose settings may be changed."""
    for file in saved.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
        else:
            (tmp_path / file.name).symlink_to(file)
    return tmp_path


def theirs_of(folder: Path) -> Any:
    from transformers import VisionEncoderDecoderModel

    return VisionEncoderDecoderModel.from_pretrained(folder, attn_implementation="eager").eval()


def edit(file: Path, change: Callable[[dict[str, Any]], None] | dict[str, Any]) -> None:
    data = json.loads(file.read_text()) if file.exists() else {}
    if callable(change):
        change(data)
    else:
        data.update(change)
    file.write_text(json.dumps(data))


def read(folder: Path, max_positions: int | None = POSITIONS) -> tuple[TokenIds, GenerationConfig]:
    top = json.loads((folder / CONFIG).read_text())
    file = folder / GENERATION
    own = json.loads(file.read_text()) if file.exists() else None
    ids, config = read_generation(own, top, top["decoder"], path=folder)
    return ids, within_positions(config, max_positions)


def write_texts(model: Any, ids: TokenIds, config: GenerationConfig) -> list[list[int]]:
    ids = config.token_ids(ids, VOCAB)
    prompt = torch.full((len(PIXELS), 1), ids.start)
    out = search(State(model), Request(prompt, config, ids, config.limits(1, POSITIONS)))
    return out.sequences.tolist()


def same(folder: Path, **options: Any) -> tuple[TokenIds, GenerationConfig]:
    """A folder that vedcore reads gives transformers' texts; without a length in the files, both are given one."""
    model = theirs_of(folder)
    ids, config = read(folder)
    if config.max_length is None and config.max_new_tokens is None:
        options["max_new_tokens"] = 9
    torch.manual_seed(0)
    ours = write_texts(model, ids, config.with_options(**options) if options else config)
    torch.manual_seed(0)
    assert ours == model.generate(PIXELS, **options).tolist(), config
    return ids, config


OLD = {  # transformers 4.x wrote these into every section, set or not
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_scores": False,
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "return_dict_in_generate": False,
    "sep_token_id": None,
    "suppress_tokens": None,
    "task_specific_params": None,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
}
IDS = {"decoder_start_token_id": 3, "pad_token_id": 4, "eos_token_id": [2, 11, 17, 23, 31]}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_length": 12, "num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 3, "length_penalty": 2.0},
    {"max_length": 16, "num_beams": 1, "early_stopping": True, "length_penalty": 0.5, "temperature": 0.3, "top_p": 0.5},
    {"max_length": 5, "max_new_tokens": 11, "min_length": 3, "min_new_tokens": 6},
    {"max_length": 10, "min_length": 15},
    {"max_length": 12, "forced_bos_token_id": 7, "forced_eos_token_id": [2, 9], "begin_suppress_tokens": [5, 11]},
    {"max_length": 12, "num_beams": 3, "bad_words_ids": [[2], [11], [30], [5, 6]], "suppress_tokens": [8, 9, 10, 17]},
    {"max_length": 14, "do_sample": True, "top_k": 7, "top_p": 0.9, "temperature": 1.5, "repetition_penalty": 1.4},
    {"max_new_tokens": 14, "do_sample": True, "num_beams": 2, "num_return_sequences": 2, "top_k": 0},
    {
        "max_length": 12,
        "num_beams": 3,
        "sequence_bias": [[[5], -3.0], [[6, 7], 4.0]],
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": [2, 1.3],
        "renormalize_logits": True,
        "diversity_penalty": 0.0,
        "penalty_alpha": None,
        "force_words_ids": None,
        "min_p": 0.4,
    },
    {
        "max_length": 12,
        "do_sample": True,
        "top_k": 0,
        "min_p": 0.05,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.01,
        "eta_cutoff": 0.02,
        "penalty_alpha": 0.6,
        "num_assistant_tokens": 5,
        "max_matching_ngram_size": 2,
    },
    {"max_length": 9, "use_cache": False, "output_attentions": False, "return_dict_in_generate": False},
]


@pytest.mark.filterwarnings("error::UserWarning:vedcore")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_generation_config(folder: Path, options: dict[str, Any]) -> None:
    edit(folder / GENERATION, {**IDS, **options})
    ids, config = same(folder)
    assert (ids.start, ids.eos, ids.pad) == (3, (2, 11, 17, 23, 31), 4)
    assert config.eos_token_id is config.pad_token_id is config.decoder_start_token_id is None


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("decoder", [{}, OLD], ids=["plain", "old"])
def test_the_top_of_config(folder: Path, options: dict[str, Any], decoder: dict[str, Any]) -> None:
    """transformers 4.x wrote options there before there was a file for them."""
    (folder / GENERATION).unlink()
    edit(folder / CONFIG, lambda data: data["decoder"].update(decoder))
    edit(folder / CONFIG, {**IDS, **options})
    ids, config = same(folder)
    assert (ids.start, ids.eos, ids.pad) == (3, (2, 11, 17, 23, 31), 4)
    assert config.max_length == (None if "max_new_tokens" in options else options.get("max_length"))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_section_of_the_decoder(folder: Path, options: dict[str, Any]) -> None:
    (folder / GENERATION).unlink()
    edit(folder / CONFIG, lambda data: data["decoder"].update({**OLD, **IDS, **options}))
    ids, _ = same(folder)
    assert (ids.start, ids.eos, ids.pad) == (3, (2, 11, 17, 23, 31), 4)


@pytest.mark.parametrize("seed", range(8))
def test_ids_from_everywhere(folder: Path, seed: int) -> None:
    """Some ids are in one file and some in another, as fine-tuning leaves them."""
    draw = random.Random(seed)

    def some() -> dict[str, Any]:
        eos = draw.choice([None, 2, [2, 11], [5, 17, 23]])
        found = {
            "eos_token_id": eos,
            "pad_token_id": draw.choice([None, 0, 4]),
            "bos_token_id": draw.choice([None, 6]),
            "decoder_start_token_id": draw.choice([None, 3, 0]),
        }
        return {name: value for name, value in found.items() if value is not None or draw.random() < 0.5}

    edit(folder / CONFIG, some())
    inner = {name: value for name, value in some().items() if value is not None}  # TrOCR's own may not be None
    edit(folder / CONFIG, lambda data: data["decoder"].update(inner))
    if draw.random() < 0.5:
        (folder / GENERATION).unlink()
    else:
        (folder / GENERATION).write_text(json.dumps({"bos_token_id": 1, **some(), "num_beams": draw.choice([1, 3])}))
    model = theirs_of(folder)
    start = model.generation_config.decoder_start_token_id, model.generation_config.bos_token_id
    if start == (None, None):
        pytest.skip("transformers cannot generate")
    ids, _ = same(folder)
    label = torch.tensor([[7, 8, -100]])
    if None not in [getattr(model.config, name, None) for name in ("pad_token_id", "decoder_start_token_id")]:
        theirs = model.prepare_decoder_input_ids_from_labels(label)
        assert torch.equal(shift_tokens_right(label, ids.pad, ids.start), theirs)


def test_lengths(folder: Path) -> None:
    edit(folder / GENERATION, {**IDS, "max_length": 500, "min_length": 400})
    config = read(folder)[1]
    assert config.limits(1, POSITIONS)[:2] == (33, 33)
    assert read(folder, None)[1].max_length == 500
    edit(folder / GENERATION, {"max_new_tokens": 500})
    assert read(folder)[1].limits(1, POSITIONS)[:2] == (33, 33)
    for least in ("min_length", "min_new_tokens"):
        (folder / GENERATION).write_text(json.dumps({least: 500}))
        assert read(folder)[1].limits(1, POSITIONS)[:2] == (32, 32)
    (folder / GENERATION).write_text("{}")
    assert read(folder)[1] == GenerationConfig()


def test_options_that_we_do_not_have(folder: Path) -> None:
    edit(
        folder / GENERATION,
        {
            "dola_layers": "low",
            "token_healing": True,
            "top_h": 0.5,
            "lang_to_id": {"a": 1},
            "constraints": [],
            "guidance_scale": 1.0,
            "use_cache": True,
            "output_attentions": True,
            "cache_implementation": "static",
        },
    )
    with pytest.warns(UserWarning, match="generates without them") as caught:
        read(folder)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "'dola_layers', 'token_healing', 'lang_to_id'" in message
    assert str(folder / GENERATION) in message
    assert not {"top_h", "constraints", "guidance_scale"} & set(message.replace("'", " ").split())
    edit(folder / GENERATION, {"do_sample": True})
    with pytest.warns(UserWarning, match="top_h"):
        read(folder)
    (folder / GENERATION).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(folder)


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"max_length": 10**9}, ConfigLimitError, "max_length"),
        ({"num_beams": 10**6}, ConfigLimitError, "num_beams"),
        ({"max_new_tokens": 10**30}, ConfigLimitError, "max_new_tokens"),
        ({"max_length": "20"}, ConfigSchemaError, "max_length"),
        ({"max_length": -1}, ConfigSchemaError, "max_length"),
        ({"num_beams": 2.5}, ConfigSchemaError, "num_beams"),
        ({"num_beams": [1]}, ConfigSchemaError, "num_beams"),
        ({"do_sample": "yes"}, ConfigSchemaError, "do_sample"),
        ({"min_length": {}, "max_length": 4}, ConfigSchemaError, "min_length"),
        ({"eos_token_id": "2"}, ConfigSchemaError, "eos_token_id"),
        ({"eos_token_id": [2, None]}, ConfigSchemaError, "eos_token_id"),
        ({"pad_token_id": -1}, ConfigSchemaError, "pad_token_id"),
        ({"bos_token_id": 2**70}, ConfigSchemaError, "bos_token_id"),
        ({"bad_words_ids": [[2, -3]]}, ConfigSchemaError, "bad_words_ids"),
        ({"suppress_tokens": "3"}, ConfigSchemaError, "suppress_tokens"),
        ({"do_sample": True, "temperature": 0}, ConfigSchemaError, "temperature"),
        ({"sequence_bias": {"1": 3.0}}, ConfigSchemaError, "sequence_bias"),
        ({"exponential_decay_length_penalty": [1]}, ConfigSchemaError, "exponential_decay_length_penalty"),
        ({"do_sample": True, "min_p": 2.0}, ConfigSchemaError, "min_p"),
        ({"force_words_ids": [[1]]}, UsageError, "force_words_ids"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, UsageError, "num_beam_groups"),
        ({"num_return_sequences": 4}, UsageError, "num_return_sequences"),
        ({"num_beams": 2, "num_return_sequences": 4}, UsageError, "num_return_sequences"),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["file", "top", "decoder"])
def test_bad_values(change: dict[str, Any], kind: type[ConfigError], field: str, where: str) -> None:
    file = change if where == "file" else None
    top, decoder = (change if where == "top" else {}), (change if where == "decoder" else {})
    with pytest.raises(ConfigError) as caught:
        read_generation(file, top, decoder, path="some")
    assert type(caught.value) is kind
    message = str(caught.value)
    assert message.startswith(f"some/{GENERATION if where == 'file' else CONFIG}: ")
    assert f"{'decoder.' if where == 'decoder' else ''}{field}" in message
    assert "\n" not in message
    assert len(message) <= 300


def test_a_file_that_is_not_an_object() -> None:
    with pytest.raises(ConfigSchemaError, match=r"generation_config\.json: object expected, got list"):
        read_generation([1], {}, {}, path="some")  # type: ignore[arg-type]


WRITTEN: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 7, "min_new_tokens": 3},
    {"max_length": 10, "num_beams": 3, "length_penalty": 0.5, "early_stopping": "never", "num_return_sequences": 2},
    {"do_sample": True, "top_k": 0, "top_p": 0.8, "temperature": 2.0},
    {"do_sample": True},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_length": 6},
    {
        "bad_words_ids": [[5], [6, 7]],
        "suppress_tokens": [8],
        "begin_suppress_tokens": [9, 30],
        "max_length": 9,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": [2, 7],
    },
    {"eos_token_id": (), "max_length": 12},
    {"eos_token_id": 11, "pad_token_id": 0, "decoder_start_token_id": 7},
    {"use_cache": False, "return_dict_in_generate": True},
    {
        "sequence_bias": {(5,): -3, (6, 7): 4.0},
        "exponential_decay_length_penalty": (2, 1.3),
        "num_beams": 2,
        "remove_invalid_values": True,
        "renormalize_logits": True,
        "max_length": 12,
    },
    {"do_sample": True, "top_k": 0, "min_p": 0.05, "typical_p": 0.9, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02},
]
ALL = TokenIds(start=3, eos=(2, 11, 17), pad=4)
FEWER = [TokenIds(start=0, eos=(2,)), TokenIds(start=1), TokenIds(start=1, pad=0)]


@pytest.mark.parametrize(
    ("options", "ids"),
    [*((options, ALL) for options in WRITTEN), *(({"max_length": 9}, ids) for ids in FEWER)],
    ids=str,
)
def test_written(folder: Path, options: dict[str, Any], ids: TokenIds) -> None:
    config = GenerationConfig(**options)
    (folder / GENERATION).write_text(json.dumps(write_generation(config, ids, max_positions=POSITIONS)))
    edit(folder / CONFIG, write_ids(ids))
    model = theirs_of(folder)
    torch.manual_seed(0)
    ours = write_texts(model, ids, config)
    torch.manual_seed(0)
    assert ours == model.generate(PIXELS).tolist()
    again, kept = read(folder)
    torch.manual_seed(0)
    assert write_texts(model, again, kept) == ours
    assert again.start == ids.start
    if not set(options) & {"eos_token_id", "pad_token_id"}:
        assert again.eos == ids.eos
        assert again.pad == (ids.pad if ids.pad is not None or not ids.eos else ids.eos[0])
    assert set(write_ids(ids)) <= {"decoder_start_token_id", "eos_token_id", "pad_token_id"}


def test_written_without_positions_and_seed() -> None:
    with pytest.warns(UserWarning, match="seed=4"):
        theirs = write_generation(GenerationConfig(do_sample=True, seed=4), TokenIds(start=1, eos=(2,)))
    assert theirs == {
        "do_sample": True,
        "max_new_tokens": 1024,
        "decoder_start_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert write_ids(TokenIds(start=0, eos=(2, 3), pad=0)) == {
        "decoder_start_token_id": 0,
        "eos_token_id": [2, 3],
        "pad_token_id": 0,
    }
    assert write_ids(TokenIds()) == {}


@pytest.mark.parametrize(
    "options",
    [
        {"penalty_alpha": 0.6},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"num_beams": 4, "force_words_ids": [[1, 2], [[3], [4, 5]]]},
        {"prompt_lookup_num_tokens": 4, "max_matching_ngram_size": 3},
        {
            "num_assistant_tokens": 4,
            "num_assistant_tokens_schedule": "heuristic",
            "assistant_confidence_threshold": 0.0,
        },
        {"max_time": 2.5, "stop_strings": ["a", "b"]},
        {"decoder_start_token_id": [1, 2]},
        {"sequence_bias": {(1, 2): 3.0}, "exponential_decay_length_penalty": (2, 1.5), "remove_invalid_values": True},
    ],
    ids=str,
)
def test_options_survive_a_round_trip(options: dict[str, Any], tmp_path: Path) -> None:
    """Options that need a caller, another library or a clock stay as they were, also when transformers saves them."""
    from transformers import GenerationConfig as Theirs

    config, ids = GenerationConfig(max_length=9, **options), TokenIds(start=1, eos=(2,), pad=0)
    written = write_generation(config, ids)
    Theirs.from_dict(written).save_pretrained(tmp_path)
    for file in (written, json.loads((tmp_path / GENERATION).read_text()), {**Theirs().to_dict(), **written}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = read_generation(file, {}, {}, path="some")
        assert again == (ids, config)


def test_contrastive_search_keeps_its_top_k() -> None:
    config = GenerationConfig(max_length=9, penalty_alpha=0.6, top_k=4)
    assert read_generation(write_generation(config, TokenIds()), {}, {}, path="some")[1] == config


def test_options_that_transformers_does_not_have() -> None:
    options = GenerationConfig(
        allowed_chars="ab", pattern="a+", lexicon=["a"], repetition_stop=3, compile=True, output_scores=True
    )
    with pytest.warns(UserWarning, match="no such options: .*allowed_chars.*pattern.*lexicon.*repetition_stop"):
        written = write_generation(options, TokenIds())
    assert written == {"max_new_tokens": 1024}
    for name in ("allowed_chars", "pattern", "lexicon", "repetition_stop"):
        with pytest.warns(UserWarning, match=f"generates without them: '{name}'"):
            assert read_generation({name: "a"}, {}, {}, path="some")[1] == GenerationConfig()


def test_the_length_that_transformers_4_wrote(folder: Path) -> None:
    """20 in the decoder's section is not a wish; at the top, in a file of its own, or as another number it is one."""
    (folder / GENERATION).unlink()

    def set_length(section: str, value: int | None) -> None:
        edit(folder / CONFIG, lambda data: (data if section == "top" else data[section]).update(max_length=value))

    set_length("decoder", 20)
    set_length("encoder", 20)
    with pytest.warns(
        UserWarning, match=r"config\.json: decoder\.max_length: 20 .* is not taken: texts may fill"
    ) as caught:
        assert read(folder)[1].max_length is None
    assert len(caught) == 1
    assert len(str(caught[0].message).removeprefix(str(folder))) < 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edit(folder / CONFIG, lambda data: data["decoder"].update(max_new_tokens=7))
        assert read(folder)[1].max_new_tokens == 7
        edit(folder / CONFIG, lambda data: data["decoder"].pop("max_new_tokens"))
        set_length("decoder", 21)
        assert read(folder)[1].max_length == 21
        set_length("decoder", 20)
        set_length("top", 20)
        assert read(folder)[1].max_length == 20
        set_length("top", 15)
        assert read(folder)[1].max_length == 15
        set_length("top", None)
        (folder / GENERATION).write_text(json.dumps({"max_length": 20}))
        assert read(folder)[1].max_length == 20


@pytest.mark.parametrize("options", [*OPTIONS, {"seed_of_nothing": None}], ids=str)
def test_an_object_of_transformers_is_read_like_its_file(options: dict[str, Any]) -> None:
    from transformers import GenerationConfig as Theirs

    options = {name: value for name, value in options.items() if name != "seed_of_nothing"}
    expected = read_generation({**IDS, **options}, {}, {}, path="some")[1]
    got = read_generation_config(Theirs(**IDS, **options), GenerationConfig())
    ids = {"eos_token_id": (2, 11, 17, 23, 31), "pad_token_id": 4, "decoder_start_token_id": 3}
    outputs = {name: options[name] for name in ("use_cache",) if name in options}
    assert got == expected.model_copy(update={**ids, **outputs})


def test_an_object_of_transformers_goes_over_the_models_own() -> None:
    from transformers import GenerationConfig as Theirs

    base = GenerationConfig(num_beams=3, max_length=30, length_penalty=0.5)
    assert read_generation_config(Theirs(), base) == base
    over = read_generation_config(Theirs(max_new_tokens=4, return_dict_in_generate=True, output_scores=True), base)
    assert (over.num_beams, over.max_length, over.max_new_tokens, over.length_penalty) == (3, None, 4, 0.5)
    assert over.return_dict_in_generate
    assert over.output_scores
    with pytest.warns(
        UserWarning, match="generation_config: vedcore does not have these options.*dola_layers"
    ) as caught:
        read_generation_config(Theirs(dola_layers="low", token_healing=True), base)
    assert len([each for each in caught if "generation_config: vedcore" in str(each.message)]) == 1
    with pytest.raises(ConfigSchemaError, match="num_beams"):
        read_generation_config(Theirs(num_beams="four"), base)

    class Odd:
        def to_dict(self) -> list[int]:
            return [1]

    with pytest.raises(UsageError, match="Odd does not give its options as a mapping"):
        read_generation_config(Odd(), base)
