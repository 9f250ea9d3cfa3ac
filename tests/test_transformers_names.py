"""Names that people bring from transformers: what there is not is an error that says what to write."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

import vedcore
from tests.model.tiny import tiny
from vedcore import transformers_names as names
from vedcore.errors import MissingNameError, UsageError


@pytest.fixture(scope="module")
def model() -> Any:
    return vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2},
        image_size=32,
        tokenizer="char",
        encoder_hidden_size=8,
        encoder_num_attention_heads=2,
        seed=0,
    )


@pytest.mark.parametrize(("name", "hint"), names.LOADING.items())
def test_arguments_of_loading(model: Any, tmp_path: Path, name: str, hint: str) -> None:
    for load in (vedcore.load, vedcore.VisionEncoderDecoder.from_pretrained):
        with pytest.raises(UsageError, match=f"{name}: unknown argument") as caught:
            load(tmp_path, **{name: True})
        assert caught.value.hint == hint


@pytest.mark.parametrize(("name", "hint"), names.SAVING.items())
@pytest.mark.parametrize("format", ["native", "transformers"])
def test_arguments_of_saving(model: Any, tmp_path: Path, format: str, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: unknown argument") as caught:
        model.save_pretrained(tmp_path / "x", format=format, **{name: True})
    assert caught.value.hint == hint
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("name", "hint"), names.GENERATING.items())
def test_options_of_generate(model: Any, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: unknown option") as caught:
        model.generate(torch.zeros(1, 3, 32, 32), **{name: 1})
    assert caught.value.hint == hint


ATTRIBUTES = [
    *[("model.generation_config", name, hint) for name, hint in names.GENERATION_CONFIG.items()],
    *[("model.processor.tokenizer", name, hint) for name, hint in names.TOKENIZER.items()],
    *[("model.processor", name, hint) for name, hint in names.PROCESSOR.items()],
    *[("model.config", name, hint) for name, hint in names.CONFIG.items()],
    *[("model", name, hint) for name, hint in names.MODEL.items()],
    ("model.config", "num_beams", "read model.generation_config.num_beams"),
    ("model.config.decoder", "max_length", "read model.generation_config.max_length"),
    ("model.decoder.config", "max_length", "read model.generation_config.max_length"),
]


@pytest.mark.parametrize(("target", "name", "hint"), ATTRIBUTES)
def test_attributes(model: Any, target: str, name: str, hint: str) -> None:
    """The error is an ``AttributeError`` too, so that code which asks for the name goes on."""
    owner = eval(target, {"model": model})
    assert getattr(owner, name, None) is None
    with pytest.raises(MissingNameError, match=f"{name}: .* has no such attribute") as caught:
        getattr(owner, name)
    assert caught.value.hint == hint


@pytest.mark.parametrize("owner", ["model", "model.config", "model.processor", "model.processor.tokenizer"])
def test_other_names_are_plain_errors(model: Any, owner: str) -> None:
    with pytest.raises(AttributeError, match="nonsense") as caught:
        eval(owner, {"model": model}).nonsense  # noqa: B018
    assert not isinstance(caught.value, vedcore.VedcoreError)


@pytest.mark.parametrize(("name", "hint"), names.TOP.items())
def test_names_of_the_package(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: vedcore has no such name") as caught:
        exec(f"from vedcore import {name}")
    assert caught.value.hint == hint
    assert name not in dir(vedcore)


@pytest.mark.parametrize(("name", "hint"), names.TOKENIZING.items())
def test_arguments_of_a_tokenizer(model: Any, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: unknown argument") as caught:
        model.processor.tokenizer("ab", **{name: True})
    assert caught.value.hint == hint
    with pytest.raises(UsageError, match=f"{name}: unknown argument; call the tokenizer itself"):
        model.processor.tokenizer.encode("ab", **{name: True})


@pytest.mark.parametrize(("name", "hint"), names.PROCESSING.items())
def test_arguments_of_a_processor(model: Any, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: unknown argument") as caught:
        model.processor(text="ab", **{name: True})
    assert caught.value.hint == hint


@pytest.mark.parametrize(("name", "hint"), names.DECODING.items())
def test_arguments_of_decoding(model: Any, name: str, hint: str) -> None:
    for owner in (model.processor, model.processor.tokenizer):
        for decode in (owner.decode, owner.batch_decode):
            with pytest.raises(UsageError, match=f"{name}: unknown argument") as caught:
                decode(**{name: [5]})
            assert caught.value.hint == hint


@pytest.mark.parametrize(("name", "hint"), names.ADDING.items())
def test_arguments_of_adding(model: Any, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: unknown argument") as caught:
        model.processor.tokenizer.add_special_tokens(["<x>"], **{name: False})
    assert caught.value.hint == hint


def test_spaces_are_cleaned_up_as_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "it", "'", "s", "done", ".", ",", "n't", "do"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    ours = vedcore.Processor(vedcore.Preprocessing(image_size=(8, 8)), made)
    ids = [4, 5, 6, 7, 9, 11, 10, 8]
    for clean in (True, False):
        options = {"clean_up_tokenization_spaces": clean}
        assert ours.decode(ids, **options) == theirs.decode(ids, **options)
        assert ours.tokenizer.batch_decode([ids], **options) == theirs.batch_decode([ids], **options)


def test_the_sides_of_a_tokenizer(model: Any) -> None:
    tokenizer = model.processor.tokenizer
    assert tokenizer.padding_side == tokenizer.truncation_side == "right"
    tokenizer.padding_side = "right"
    with pytest.raises(UsageError, match=r"tokenizer\.padding_side: cannot be set; leave it out"):
        tokenizer.padding_side = "left"


def test_a_setting_that_is_so_already(model: Any) -> None:
    """A setting may be given the value that it has, as tutorials do."""
    model.config.vocab_size = model.config.decoder.vocab_size
    model.config.is_encoder_decoder = True
    model.config.decoder.n_layer = 1
    model.config.pad_token_id = model.processor.tokenizer.pad_token_id
    tokenizer = model.processor.tokenizer
    tokenizer.bos_token = tokenizer.bos_token
    with pytest.raises(UsageError, match="vocab_size: settings of a ModelConfig do not change in place"):
        model.config.vocab_size = 1


def test_memory_footprint() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertModel(transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    ours = tiny()
    assert ours.get_memory_footprint() == theirs.__class__.get_memory_footprint(ours)
    assert ours.get_memory_footprint(False) == theirs.__class__.get_memory_footprint(ours, return_buffers=False)


def test_the_folder_goes_by_its_name(model: Any, tmp_path: Path) -> None:
    for owner in (model, model.processor, model.processor.tokenizer):
        owner.save_pretrained(save_directory=tmp_path)
    assert vedcore.load(tmp_path).processor.tokenizer is not None


FOLLOWED = {
    "leave it out": "",
    names.LOADING["force_download"]: "",
    "give dtype='bfloat16'": "vedcore.load(folder, dtype='bfloat16')",
    "give dtype='float16', or revision=": "vedcore.load(folder, dtype='float16')",
    names.LOADING["low_cpu_mem_usage"]: "vedcore.load(folder, mmap=True)",
    names.LOADING["max_memory"]: "vedcore.load(folder, device='cpu')",
    names.LOADING["ignore_mismatched_sizes"]: "vedcore.load(folder, image_size=48).resize_vocabulary(120)",
    names.LOADING["config"]: "vedcore.load(folder, image_size=48), vedcore.compose(folder, folder, decoder_n_layer=1)",
    names.LOADING["state_dict"]: "vedcore.load(folder).load_state_dict(model.state_dict())",
    names.LOADING["use_auth_token"]: "vedcore.load(folder, token='x')",
    names.LOADING["use_cache"]: "model.generate(pixels, max_new_tokens=2, use_cache=False)",
    names.SAVING["variant"]: "model.save_pretrained(folder, weights_dtype='float16')",
    names.GENERATING["attention_mask"]: "model.generate(pixels, decoder_input_ids=ids, decoder_attention_mask=mask)",
    names.GENERATING["bos_token_id"]: "model.generate(pixels, max_new_tokens=2, decoder_start_token_id=5)",
    names.GENERATING["constraints"]: "model.generate(pixels, force_words_ids=[[5]], num_beams=2, max_new_tokens=2)",
    names.GENERATING["cache_implementation"]: "",
    names.GENERATING["input_ids"]: "model.generate(pixels, decoder_input_ids=ids)",
    names.GENERATING["use_model_defaults"]: "model.generate(pixels, generation_config=vedcore.GenerationConfig())",
    names.GENERATION_CONFIG["to_diff_dict"]: "model.generation_config.model_dump(exclude_defaults=True)",
    names.GENERATION_CONFIG["save_pretrained"]: "model.save_pretrained(folder)",
    names.GENERATION_CONFIG["from_dict"]: "vedcore.GenerationConfig.parse({'num_beams': 2})",
    names.GENERATION_CONFIG["from_model_config"]: "model.generation_config",
    names.GENERATION_CONFIG["from_pretrained"]: "vedcore.load(folder).generation_config",
    names.GENERATION_CONFIG["to_json_string"]: "model.generation_config.model_dump_json()",
    names.CONFIG["architectures"]: "model.config.encoder.name, model.config.decoder.name",
    names.CONFIG["bos_token_id"]: "model.token_ids.start",
    names.CONFIG["hidden_size"]: "model.encoder.hidden_size, model.decoder.hidden_size",
    names.CONFIG["output_attentions"]: "model(pixels, decoder_input_ids=ids, output_attentions=True, return_dict=True)",
    names.CONFIG["tie_word_embeddings"]: "model.config.decoder.tie_word_embeddings",
    names.CONFIG["torch_dtype"]: "model.dtype",
    names.CONFIG["update"]: "vedcore.compose(folder, folder, decoder_n_layer=1)",
    names.CONFIG["use_cache"]: "model.generate(pixels, max_new_tokens=2, use_cache=False)",
    "call model.generate(pixels)": "model.generate(pixels, max_new_tokens=2)",
    "call model.processor itself": "model.processor(image)",
    names.MODEL["base_model"]: "model.encoder, model.decoder",
    names.MODEL["beam_search"]: "model.generate(pixels, num_beams=4, max_new_tokens=2)",
    names.MODEL["contrastive_search"]: "model.generate(pixels, penalty_alpha=0.6, top_k=4, max_new_tokens=2)",
    names.MODEL["enc_to_dec_proj"]: "model.projector",
    names.MODEL["freeze_feature_encoder"]: "model.freeze('encoder')",
    names.MODEL["get_position_embeddings"]: "vedcore.load(folder, image_size=48)",
    names.MODEL["lm_head"]: "model.get_output_embeddings()",
    names.MODEL["parallelize"]: "model.to('cpu')",
    names.MODEL["sample"]: "model.generate(pixels, do_sample=True, max_new_tokens=2)",
    names.MODEL["set_input_embeddings"]: "model.resize_vocabulary(120)",
    names.TOKENIZER["added_tokens_decoder"]: "tokenizer.get_added_vocab()",
    names.TOKENIZER["additional_special_tokens_ids"]: "tokenizer.all_special_ids",
    names.TOKENIZER["max_len_single_sentence"]: "tokenizer.model_max_length",
    names.TOKENIZER["save_vocabulary"]: "tokenizer.save_pretrained(folder)",
    names.TOKENIZER["src_lang"]: "model.generate_text([image], prompt='a', max_new_tokens=2)",
    names.TOKENIZING["pad_to_multiple_of"]: "tokenizer('a', padding='max_length', max_length=8)",
    names.TOKENIZING["split_special_tokens"]: "tokenizer('a', untrusted=True)",
    names.PROCESSING["do_resize"]: "vedcore.load(folder, preprocessing=model.processor.preprocessing)",
    names.PROCESSING["text_target"]: "model.processor(text='a')",
    names.TOP["DataCollatorForSeq2Seq"]: "model.processor.collate",
    names.TOP["LogitsProcessor"]: "model.generate(pixels, logits_processor=[lambda i, s: s], max_new_tokens=2)",
    names.TOP["TextStreamer"]: "list(model.stream(image, max_new_tokens=2))",
    names.TOP["set_seed"]: "torch.manual_seed(0)",
    names.TOKENIZER["additional_special_tokens"]: "tokenizer.all_special_tokens",
    names.TOKENIZER["as_target_tokenizer"]: "model.processor(text='a')",
    names.TOKENIZER["convert_tokens_to_string"]: "tokenizer.decode(tokenizer.convert_tokens_to_ids(['a']))",
    names.TOKENIZER["pad"]: "tokenizer(['a', 'bc'], padding=True), model.processor.collate",
    names.TOKENIZER["special_tokens_map"]: "tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token",
    names.TOKENIZER["vocab"]: "tokenizer.get_vocab()",
    "call the tokenizer itself": "tokenizer('a')",
    names.PROCESSOR["image_processor"]: "model.processor(pixels[0]), model.processor.preprocessing",
    names.PROCESSOR["token2json"]: "vedcore.fields.parse('<s_a>b</s_a>')",
    "take vedcore.Processor": "vedcore.Processor.from_pretrained(folder).tokenizer",
    "take vedcore.VisionEncoderDecoder": "vedcore.VisionEncoderDecoder.from_pretrained(folder)",
    "take vedcore.ModelConfig": "vedcore.ModelConfig",
    "call vedcore.load": "vedcore.load(folder).generate_text([image], max_new_tokens=2)",
}
"""Beginnings of hints to code that does what they say."""
ELSEWHERE = (
    "save the model with transformers 4",
    "set HTTPS_PROXY",
    "import it from transformers",
    "call model.push",
    "call peft.get_peft_model",
    "keep the folder's name",
    "join the words",
    "count with len",
    "compare the ids with all_special_ids",
    "give one text",
    "give the ids first",
    "give a list",
    "take the text as it is",
)
"""Hints to something outside of this process, a network or an older transformers."""


TABLES = (
    names.ADDING,
    names.CONFIG,
    names.DECODING,
    names.MODEL,
    names.PROCESSING,
    names.TOKENIZING,
    names.LOADING,
    names.SAVING,
    names.GENERATING,
    names.GENERATION_CONFIG,
    names.TOKENIZER,
    names.PROCESSOR,
    names.TOP,
)


@pytest.mark.parametrize("hint", sorted({hint for table in TABLES for hint in table.values()}))
def test_what_hints_say_works(model: Any, tmp_path: Path, hint: str) -> None:
    if hint.startswith(ELSEWHERE):
        return
    begin = max((b for b in FOLLOWED if hint.startswith(b)), key=len)
    model = copy.deepcopy(model)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    scope = {"model": model, "vedcore": vedcore, "folder": folder, "tokenizer": model.processor.tokenizer}
    pixels = torch.rand(2, 3, 32, 32)
    scope |= {
        "pixels": pixels,
        "image": pixels[0],
        "ids": torch.full((2, 1), 5),
        "torch": torch,
        "mask": torch.ones(2, 1),
    }
    exec(FOLLOWED[begin], scope)


def test_copies_of_what_lacks_names(model: Any) -> None:
    for owner in (model.config, model.processor, model.processor.tokenizer, model.generation_config):
        for other in (copy.copy(owner), copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
            assert type(other) is type(owner)


def test_from_encoder_decoder_pretrained(tmp_path: Path) -> None:
    made = vedcore.VisionEncoderDecoder.from_encoder_decoder_pretrained
    with pytest.raises(UsageError, match="no such method") as caught:
        made("google/vit-base-patch16-224-in21k", "gpt2", tie_encoder_decoder=False)
    assert caught.value.hint == "call vedcore.compose('hub:google/vit-base-patch16-224-in21k', 'gpt2', pretrained=True)"
    tiny().save_pretrained(tmp_path / "m")
    with pytest.raises(UsageError) as caught:
        made(str(tmp_path / "m"), str(tmp_path / "m"))
    eval(caught.value.hint.removeprefix("call "), {"vedcore": vedcore})


def test_settings_that_are_read(model: Any) -> None:
    config, ids = model.config, model.token_ids
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (ids.pad, ids.eos[0], ids.start)
    assert config.vocab_size == config.decoder.vocab_size == 98
    assert config.is_encoder_decoder
    assert model.decoder.config.max_position_embeddings == model.decoder.config.n_positions
    assert vedcore.TokenIds().eos == ()
    alone = vedcore.ModelConfig(encoder="vit", decoder="gpt2")
    assert (alone.pad_token_id, alone.eos_token_id, alone.decoder_start_token_id, alone.vocab_size) == (None,) * 4
    several = alone.model_copy(update={"token_ids": vedcore.TokenIds(eos=(1, 2))})
    assert several.eos_token_id == (1, 2)


def test_tied_layers_stay_tied(model: Any) -> None:
    model.tie_weights()
    assert model.decoder.embedding.weight is not None
