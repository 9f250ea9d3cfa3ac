"""The tables of docs/from-transformers.md: each row is looked up in transformers, and done with vedcore.

``python -m tests.docs.test_from_transformers`` writes them into the page.
"""

from __future__ import annotations

import inspect
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vedcore
from vedcore import transformers_names

PAGE = Path(__file__).parents[2] / "docs" / "from-transformers.md"
BEGIN, END = "<!-- tests/docs/test_from_transformers.py writes from here -->", "<!-- to here -->"
SAME = "the same"

NAMES = (
    ("VisionEncoderDecoderModel", "VisionEncoderDecoder"),
    ("VisionEncoderDecoderModel.from_pretrained", "VisionEncoderDecoder.from_pretrained"),
    ("VisionEncoderDecoderModel.from_encoder_decoder_pretrained", "compose"),
    ("VisionEncoderDecoderModel.save_pretrained", "VisionEncoderDecoder.save_pretrained"),
    ("VisionEncoderDecoderModel.push_to_hub", "VisionEncoderDecoder.push_to_hub"),
    ("VisionEncoderDecoderModel.get_encoder", "VisionEncoderDecoder.get_encoder"),
    ("VisionEncoderDecoderModel.get_decoder", "VisionEncoderDecoder.get_decoder"),
    ("VisionEncoderDecoderModel.num_parameters", "VisionEncoderDecoder.num_parameters"),
    ("VisionEncoderDecoderModel.resize_token_embeddings", "VisionEncoderDecoder.resize_vocabulary"),
    ("VisionEncoderDecoderModel.tie_weights", "VisionEncoderDecoder.tie_weights"),
    ("VisionEncoderDecoderModel.generate", "VisionEncoderDecoder.generate"),
    ("VisionEncoderDecoderModel.compute_transition_scores", "VisionEncoderDecoder.compute_transition_scores"),
    (
        "VisionEncoderDecoderModel.gradient_checkpointing_enable",
        "VisionEncoderDecoder.gradient_checkpointing_enable",
    ),
    ("VisionEncoderDecoderConfig", "ModelConfig"),
    ("GenerationConfig", "GenerationConfig"),
    ("GenerationConfig.to_dict", "GenerationConfig.model_dump"),
    ("GenerationConfig.update", "GenerationConfig.with_options"),
    ("TextIteratorStreamer", "VisionEncoderDecoder.stream"),
    ("TrOCRProcessor", "Processor"),
    ("TrOCRProcessor.from_pretrained", "Processor.from_pretrained"),
    ("TrOCRProcessor.save_pretrained", "Processor.save_pretrained"),
    ("TrOCRProcessor.push_to_hub", "Processor.push_to_hub"),
    ("TrOCRProcessor.batch_decode", "Processor.batch_decode"),
    ("TrOCRProcessor.decode", "Processor.decode"),
    ("DonutProcessor.token2json", "fields.parse"),
    ("PreTrainedTokenizerFast.add_tokens", "VisionEncoderDecoder.add_tokens"),
    ("PreTrainedTokenizerFast.save_pretrained", "Processor.save_pretrained"),
    ("DataCollatorForSeq2Seq", "Processor.collate"),
    ("DynamicCache", "DecoderCache"),
    ("modeling_outputs.Seq2SeqLMOutput", "VisionEncoderDecoderOutput"),
    ("generation.GenerateEncoderDecoderOutput", "GenerateOutput"),
)
"""Dotted names of both libraries."""

ARGUMENTS = (
    ("PreTrainedModel.from_pretrained", "cache_dir", "load", "cache_dir"),
    ("PreTrainedModel.from_pretrained", "revision", "load", "revision"),
    ("PreTrainedModel.from_pretrained", "token", "load", "token"),
    ("PreTrainedModel.from_pretrained", "local_files_only", "load", "local_files_only"),
    ("PreTrainedModel.from_pretrained", "subfolder", "load", "subfolder"),
    ("PreTrainedModel.from_pretrained", "dtype", "load", "dtype"),
    ("PreTrainedModel.from_pretrained", "torch_dtype", "load", "torch_dtype"),
    ("PreTrainedModel.from_pretrained", "device_map", "load", "device_map"),
    ("VisionEncoderDecoderModel.forward", "labels", "VisionEncoderDecoder.forward", "labels"),
    ("VisionEncoderDecoderModel.forward", "past_key_values", "VisionEncoderDecoder.forward", "past_key_values"),
    ("ViTModel.forward", "interpolate_pos_encoding", "VisionEncoderDecoder.forward", "interpolate_pos_encoding"),
    ("VisionEncoderDecoderModel.generate", "inputs", "VisionEncoderDecoder.generate", "inputs"),
    ("VisionEncoderDecoderModel.generate", "generation_config", "VisionEncoderDecoder.generate", "generation_config"),
    ("VisionEncoderDecoderModel.generate", "assistant_model", "VisionEncoderDecoder.generate", "assistant_model"),
    ("VisionEncoderDecoderModel.generate", "logits_processor", "VisionEncoderDecoder.generate", "logits_processor"),
    ("VisionEncoderDecoderModel.generate", "stopping_criteria", "VisionEncoderDecoder.generate", "stopping_criteria"),
    ("VisionEncoderDecoderModel.generate", "streamer", "VisionEncoderDecoder.generate", "streamer"),
    ("GenerationConfig", "num_beams", "GenerationConfig", "num_beams"),
    ("GenerationConfig", "prompt_lookup_num_tokens", "GenerationConfig", "prompt_lookup_num_tokens"),
    ("GenerationConfig", "output_attentions", "GenerationConfig", "output_attentions"),
    ("GenerationConfig", "output_hidden_states", "GenerationConfig", "output_hidden_states"),
    ("GenerationConfig", "pad_token_id", "GenerationConfig", "pad_token_id"),
    ("GenerationConfig", "bos_token_id", "GenerationConfig", "decoder_start_token_id"),
    ("Trainer", "data_collator", "Processor", "collate"),
)
"""A callable or a settings class of transformers and its argument, then ours."""

CODE = (
    ("model.generate(pixels, assistant_model=model, output_attentions=True, return_dict_in_generate=True)", SAME),
    ("model.generate(pixels, decoder_input_ids=out.sequences, past_key_values=out.past_key_values)", SAME),
    ("model.generate(inputs=pixels)", SAME),
    ("model.compute_transition_scores(out.sequences, out.scores)", SAME),
    ("model(pixels, labels=labels).loss", SAME),
    ("model(pixels, labels=labels, interpolate_pos_encoding=True)", SAME),
    ('VisionEncoderDecoder.from_pretrained(folder, torch_dtype="auto", device_map="cpu")', SAME),
    ("from_pretrained(folder, config=config)  # another image size", "vedcore.load(folder, image_size=(64, 128))"),
    ("model.config.pad_token_id, model.config.eos_token_id, model.config.decoder_start_token_id", SAME),
    ("model.config.vocab_size, model.config.decoder.vocab_size", SAME),
    ("model.config.eos_token_id = 2", "model.token_ids = model.token_ids.changed(eos=2)"),
    ("model.config.pad_token_id = 2", "model.token_ids = model.token_ids.changed(pad=2)"),
    ("model.config.decoder_start_token_id = 0", "model.token_ids = model.token_ids.changed(start=0)"),
    ("model.config.vocab_size = 120", "model.resize_vocabulary(120)"),
    ("model.config.max_length = 64", "model.generation_config = model.generation_config.with_options(max_length=64)"),
    (
        "model.generation_config.num_beams = 4",
        "model.generation_config = model.generation_config.with_options(num_beams=4)",
    ),
    ("model.resize_token_embeddings(len(tokenizer))", "model.resize_vocabulary(len(tokenizer))"),
    ("tokenizer.pad_token_id, tokenizer.eos_token, len(tokenizer)", SAME),
    ("tokenizer.pad_token = tokenizer.eos_token", SAME),
    ('tokenizer.convert_tokens_to_ids("a"), tokenizer.convert_ids_to_tokens([5])', SAME),
    ('tokenizer("text", padding="max_length", max_length=8, truncation=True).input_ids', SAME),
    ("tokenizer(text, split_special_tokens=True)", 'processor(text="text", untrusted=True)'),
    ('tokenizer.add_special_tokens({"additional_special_tokens": ["<s_total>"]})', 'model.add_tokens(["<s_total>"])'),
    ('processor(image, return_tensors="pt").pixel_values', SAME),
    ('processor(images=image, text="text", return_tensors="pt").labels', SAME),
    ("processor.batch_decode(ids, skip_special_tokens=True)", SAME),
    ("processor.batch_decode(ids, skip_special_tokens=False)", SAME),
    ("processor.batch_decode(ids, clean_up_tokenization_spaces=False)", SAME),
    ("model.get_memory_footprint()", SAME),
    ("model.save_pretrained(save_directory=folder)", SAME),
    ("processor.image_processor.size", "processor.preprocessing.image_size"),
    ("processor.token2json(text)", 'vedcore.fields.parse("<s_total>9</s_total>")'),
    ('pipeline("image-to-text", model=folder)(image)', "vedcore.load(folder).generate_text(image)"),
)
"""Code for transformers, and ours."""

ABSENT = {
    "from_pretrained({}=…)": transformers_names.LOADING,
    "save_pretrained({}=…)": transformers_names.SAVING,
    "generate({}=…)": transformers_names.GENERATING,
    "tokenizer.{}": transformers_names.TOKENIZER,
    "tokenizer({}=…)": transformers_names.TOKENIZING,
    "tokenizer.add_special_tokens({}=…)": transformers_names.ADDING,
    "tokenizer.decode({}=…)": transformers_names.DECODING,
    "processor({}=…)": transformers_names.PROCESSING,
    "processor.{}": transformers_names.PROCESSOR,
    "model.{}": transformers_names.MODEL,
    "model.config.{}": transformers_names.CONFIG,
    "generation_config.{}": transformers_names.GENERATION_CONFIG,
}
"""Names that lead to an error here, which `tests/test_transformers_names.py` follows, by how they are written."""


def tables() -> str:
    """The part of the page between its two marks."""
    arguments = []
    for theirs, argument, ours, own in ARGUMENTS:
        named = "generate" if theirs == "GenerationConfig" else theirs.rpartition(".")[2]
        mine = "generate" if ours == "GenerationConfig" else ours.rpartition(".")[2]
        mine = f"{mine}({own}=…)" if ours != "Processor" else "processor.collate"
        same = own == argument and mine.partition("(")[0] in (named, "load", "save")
        arguments.append((f"`{named}({argument}=…)`", SAME if same else f"`{mine}`"))
    rows = {
        "Names": [(f"`{theirs}`", f"`{ours}`") for theirs, ours in NAMES],
        "Arguments and settings": arguments,
        "Code": [(f"`{theirs}`", ours if ours == SAME else f"`{ours}`") for theirs, ours in CODE],
        "Names that are an error": [
            (f"`{how.format(name)}`", hint) for how, table in ABSENT.items() for name, hint in table.items()
        ],
    }
    parts = []
    for title, pairs in rows.items():
        lines = [f"| {theirs} | {ours} |" for theirs, ours in pairs]
        parts.append("\n".join([f"## {title}", "", "| transformers | vedcore |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def test_the_page_has_the_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == tables()


@pytest.mark.parametrize(("theirs", "ours"), NAMES)
def test_both_names_are_there(theirs: str, ours: str) -> None:
    transformers = pytest.importorskip("transformers")
    assert attrgetter(theirs)(transformers) is not None
    assert attrgetter(ours)(vedcore) is not None


@pytest.mark.parametrize(("theirs", "argument", "ours", "own"), ARGUMENTS)
def test_both_arguments_are_there(theirs: str, argument: str, ours: str, own: str) -> None:
    transformers = pytest.importorskip("transformers")
    assert takes(attrgetter(theirs)(transformers), argument)
    owner = attrgetter(ours)(vedcore)
    assert takes(owner, own) or hasattr(owner, own)


def takes(owner: Any, name: str) -> bool:
    """Whether a name is an argument of a callable, or a field of a class of settings."""
    if isinstance(owner, type) and issubclass(owner, vedcore.GenerationConfig):
        return name in owner.model_fields
    if name in inspect.signature(owner).parameters:
        return True
    return re.search(rf"\b{name}\b", inspect.getsource(owner)) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2},
        image_size=64,
        tokenizer="char",
        encoder_hidden_size=8,
        encoder_num_attention_heads=2,
        seed=0,
    )
    made.generation_config = vedcore.GenerationConfig(max_new_tokens=3)
    folder = tmp_path_factory.mktemp("model")
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("theirs", "ours"), CODE)
def test_code_does_it(theirs: str, ours: str, folder: Path) -> None:
    model = vedcore.load(folder)
    image = np.zeros((64, 64, 3), np.uint8)
    pixels = torch.zeros(1, 3, 64, 64)
    given = {"output_scores": True, "return_dict_in_generate": True}
    exec(
        theirs if ours == SAME else ours,
        {
            "vedcore": vedcore,
            "VisionEncoderDecoder": vedcore.VisionEncoderDecoder,
            "folder": folder,
            "model": model,
            "processor": model.processor,
            "tokenizer": model.processor.tokenizer,
            "image": image,
            "pixels": pixels,
            "labels": torch.tensor([[5, 6, 1]]),
            "ids": torch.tensor([[0, 68, 69, 1]]),
            "out": model.generate(pixels, max_new_tokens=2, **given),
        },
    )


def write() -> None:
    """Put the tables into the page."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{PAGE}: no line {BEGIN!r}"
    assert end, f"{PAGE}: no line {END!r}"
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write()
