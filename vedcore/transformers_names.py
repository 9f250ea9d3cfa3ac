"""Names of transformers that vedcore does not have, and what to write in their place.

docs/from-transformers.md has those that it has by another name too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vedcore.errors import MissingNameError, UsageError, did_you_mean

__all__ = [
    "ADDING",
    "CONFIG",
    "DECODING",
    "GENERATING",
    "GENERATION_CONFIG",
    "LOADING",
    "MODEL",
    "PROCESSING",
    "PROCESSOR",
    "SAVING",
    "TOKENIZER",
    "TOKENIZING",
    "TOP",
    "missing_attribute",
    "refuse_unknown",
    "unknown_argument",
]

LOADING = {
    "attn_implementation": "leave it out: any model gives its attentions",
    "config": "give image_size=, tokenizer= or preprocessing=; others are fields of vedcore.compose(folder, folder)",
    "force_download": "leave it out: `vedcore pull` replaces files that are damaged",
    "from_flax": "leave it out: flax_model.msgpack is read where there are no other weights",
    "from_tf": "leave it out: tf_model.h5 is read where there are no other weights",
    "ignore_mismatched_sizes": "give image_size= for other images, or call model.resize_vocabulary(n) afterwards",
    "load_in_4bit": "give dtype='bfloat16'",
    "load_in_8bit": "give dtype='bfloat16'",
    "low_cpu_mem_usage": "leave it out, or give mmap=True, which copies no weights",
    "max_memory": "give device=, as a model is on one",
    "offload_folder": "give device=, as a model is on one",
    "output_loading_info": "leave it out: tensors that do not fit are an error",
    "proxies": "set HTTPS_PROXY in the environment",
    "quantization_config": "give dtype='bfloat16'",
    "resume_download": "leave it out: a download that broke off goes on",
    "state_dict": "leave it out, and call model.load_state_dict afterwards",
    "trust_remote_code": "leave it out: no code comes from a folder, but from plugins that are installed",
    "use_auth_token": "give token=",
    "use_cache": "give use_cache= to model.generate",
    "use_safetensors": "leave it out: safetensors are taken where there are any",
    "variant": "give dtype='float16', or revision=",
}
"""Arguments of ``from_pretrained``."""

SAVING = {
    "is_main_process": "leave it out, and save in one process",
    "push_to_hub": "call model.push_to_hub('org/name')",
    "safe_serialization": "leave it out: weights are always safetensors",
    "save_function": "leave it out: weights are always safetensors",
    "save_peft_format": "leave it out",
    "state_dict": "leave it out: the model's own is saved",
    "variant": "give weights_dtype='float16'",
}
"""Arguments of ``save_pretrained``."""

GENERATING = {
    "assistant_tokenizer": "leave it out: a draft has the model's own tokens",
    "attention_mask": "give decoder_attention_mask= for a text, or encoder_attention_mask= for images",
    "bos_token_id": "give decoder_start_token_id=, with which a text starts",
    "cache_implementation": "leave it out, or give compile=True",
    "constraints": "give force_words_ids=",
    "custom_generate": "leave it out: a way of searching comes from a plugin",
    "encoder_no_repeat_ngram_size": "leave it out: an image has no ids",
    "encoder_repetition_penalty": "leave it out: an image has no ids",
    "guidance_scale": "leave it out",
    "input_ids": "give decoder_input_ids=",
    "low_memory": "leave it out: the beams of an image share its keys and values",
    "negative_prompt_ids": "leave it out",
    "return_legacy_cache": "leave it out",
    "trust_remote_code": "leave it out",
    "use_model_defaults": "leave it out, or give generation_config=vedcore.GenerationConfig()",
}
"""Arguments of ``generate``."""

GENERATION_CONFIG = {
    "from_dict": "call vedcore.GenerationConfig.parse",
    "from_model_config": "read model.generation_config, which has them",
    "from_pretrained": "read vedcore.load(folder).generation_config",
    "save_pretrained": "call model.save_pretrained(folder), which writes it too",
    "to_diff_dict": "call model_dump(exclude_defaults=True)",
    "to_json_string": "call model_dump_json()",
}
"""Attributes of a ``GenerationConfig``."""

CONFIG = {
    "architectures": "read config.encoder.name and config.decoder.name",
    "bos_token_id": "read model.token_ids.start",
    "hidden_size": "read model.encoder.hidden_size or model.decoder.hidden_size",
    "model_type": "read config.encoder.name and config.decoder.name",
    "name_or_path": "keep the folder's name yourself",
    "output_attentions": "pass it to a call of the model",
    "output_hidden_states": "pass it to a call of the model",
    "return_dict": "pass it to a call of the model",
    "save_pretrained": "call model.save_pretrained(folder), which writes it too",
    "tie_word_embeddings": "read config.decoder.tie_word_embeddings",
    "to_diff_dict": "call model_dump(exclude_defaults=True)",
    "torch_dtype": "read model.dtype",
    "update": "give the fields to vedcore.compose(folder, folder)",
    "use_cache": "give use_cache= to model.generate",
}
"""Attributes of a model's config."""

MODEL = {
    "add_adapter": "call peft.get_peft_model(model, config)",
    "base_model": "take model.encoder and model.decoder",
    "beam_search": "call model.generate(pixels, num_beams=4)",
    "contrastive_search": "call model.generate(pixels, penalty_alpha=0.6, top_k=4)",
    "enc_to_dec_proj": "take model.projector",
    "get_position_embeddings": "give image_size= to vedcore.load",
    "freeze_feature_encoder": "call model.freeze('encoder')",
    "greedy_search": "call model.generate(pixels)",
    "init_weights": "leave it out: vedcore.compose does so",
    "lm_head": "call model.get_output_embeddings()",
    "name_or_path": "keep the folder's name yourself",
    "parallelize": "call model.to, as a model is on one device",
    "resize_position_embeddings": "give image_size= to vedcore.load",
    "post_init": "leave it out: vedcore.compose does so",
    "sample": "call model.generate(pixels, do_sample=True)",
    "set_attn_implementation": "leave it out: any model gives its attentions",
    "set_input_embeddings": "call model.resize_vocabulary(n), and copy the weights",
    "set_output_embeddings": "call model.resize_vocabulary(n), and copy the weights",
    "to_bettertransformer": "leave it out: attention is fast already",
}
"""Attributes of a model."""

TOKENIZER = {
    "added_tokens_decoder": "call get_added_vocab()",
    "added_tokens_encoder": "call get_added_vocab()",
    "additional_special_tokens": "read all_special_tokens",
    "additional_special_tokens_ids": "read all_special_ids",
    "as_target_tokenizer": "call model.processor(text=…), which makes labels",
    "batch_encode_plus": "call the tokenizer itself",
    "build_inputs_with_special_tokens": "call the tokenizer itself, which adds them",
    "convert_tokens_to_string": "call decode(convert_tokens_to_ids(tokens))",
    "encode_plus": "call the tokenizer itself",
    "get_special_tokens_mask": "compare the ids with all_special_ids",
    "max_len_single_sentence": "read model_max_length",
    "pad": "give padding=True to the call, or take model.processor.collate",
    "prepare_for_model": "call the tokenizer itself",
    "save_vocabulary": "call save_pretrained(folder)",
    "special_tokens_map": "read bos_token, eos_token, pad_token and all_special_tokens",
    "src_lang": "give the language's token as prompt= to model.generate_text",
    "tgt_lang": "give the language's token as prompt= to model.generate_text",
    "vocab": "call get_vocab()",
}
"""Attributes of a tokenizer."""

TOKENIZING = {
    "is_split_into_words": "join the words",
    "pad_to_multiple_of": "give padding='max_length' and max_length=",
    "padding_side": "leave it out: rows are filled up at the right, and those of generate_text at the left",
    "return_attention_mask": "leave it out: it is always there",
    "return_length": "count with len",
    "return_token_type_ids": "leave it out: no decoder takes them",
    "split_special_tokens": "give untrusted=True",
    "text_pair": "give one text",
    "text_target": "call model.processor(text=…), which makes labels",
    "verbose": "leave it out",
}
"""Arguments of a call of a tokenizer, and of its ``encode``."""

ADDING = {
    "replace_additional_special_tokens": "leave it out: tokens are only ever added",
    "replace_extra_special_tokens": "leave it out: tokens are only ever added",
}
"""Arguments of a tokenizer's ``add_special_tokens``."""

DECODING = {
    "spaces_between_special_tokens": "leave it out: the tokenizer's own decoder joins tokens",
    "token_ids": "give the ids first, as decode(ids)",
    "sequences": "give the ids first, as batch_decode(ids)",
    "use_source_tokenizer": "leave it out",
}
"""Arguments of ``decode`` and ``batch_decode``."""

PROCESSING = {
    "add_special_tokens": "leave it out: labels end with the end id; model.processor.tokenizer(text) has the argument",
    "data_format": "leave it out: pixels are (N, C, H, W)",
    "do_align_long_axis": "set model.processor.preprocessing, or give preprocessing= to vedcore.load",
    "do_normalize": "set model.processor.preprocessing, or give preprocessing= to vedcore.load",
    "do_rescale": "set model.processor.preprocessing, or give preprocessing= to vedcore.load",
    "do_resize": "set model.processor.preprocessing, or give preprocessing= to vedcore.load",
    "input_data_format": "leave it out: it is seen from the shape",
    "random_padding": "leave it out: images are padded evenly; shift them before",
    "size": "give image_size= to vedcore.load",
    "text_pair": "give one text for each image",
    "text_target": "give text=, which makes labels",
}
"""Arguments of a call of a processor."""

PROCESSOR = {
    "as_target_processor": "call model.processor(text=…), which makes labels",
    "feature_extractor": "call model.processor itself; its settings are model.processor.preprocessing",
    "image_processor": "call model.processor itself; its settings are model.processor.preprocessing",
    "post_process_generation": "take the text as it is: markup is not mended",
    "preprocess": "call model.processor itself",
    "token2json": "call vedcore.fields.parse(text)",
}
"""Attributes of a processor."""

TOP = {
    "AutoConfig": "take vedcore.ModelConfig",
    "AutoFeatureExtractor": "take vedcore.Processor",
    "AutoImageProcessor": "take vedcore.Processor",
    "AutoModel": "take vedcore.VisionEncoderDecoder",
    "AutoModelForImageTextToText": "take vedcore.VisionEncoderDecoder",
    "AutoModelForVision2Seq": "take vedcore.VisionEncoderDecoder",
    "AutoProcessor": "take vedcore.Processor",
    "AutoTokenizer": "take vedcore.Processor, whose tokenizer is an attribute",
    "DataCollatorForSeq2Seq": "take model.processor.collate",
    "DonutImageProcessor": "take vedcore.Processor",
    "DonutProcessor": "take vedcore.Processor, and vedcore.fields.parse for token2json",
    "LogitsProcessor": "give any function of ids and scores, also transformers' own",
    "LogitsProcessorList": "give a list",
    "NougatImageProcessor": "take vedcore.Processor",
    "NougatProcessor": "take vedcore.Processor",
    "NougatTokenizerFast": "take vedcore.Processor, whose tokenizer is an attribute",
    "Seq2SeqTrainer": "import it from transformers, which trains models of vedcore",
    "Seq2SeqTrainingArguments": "import it from transformers, which trains models of vedcore",
    "StoppingCriteria": "give any function of ids and scores, also transformers' own",
    "StoppingCriteriaList": "give a list",
    "TextIteratorStreamer": "call model.stream",
    "TextStreamer": "call model.stream",
    "TrOCRProcessor": "take vedcore.Processor",
    "Trainer": "import it from transformers, which trains models of vedcore",
    "ViTFeatureExtractor": "take vedcore.Processor",
    "ViTImageProcessor": "take vedcore.Processor",
    "VisionEncoderDecoderConfig": "take vedcore.ModelConfig",
    "VisionEncoderDecoderModel": "take vedcore.VisionEncoderDecoder",
    "default_data_collator": "take model.processor.collate",
    "set_seed": "call torch.manual_seed(0)",
    "pipeline": "call vedcore.load(folder).generate_text(images)",
}
"""Names of the package."""


def unknown_argument(name: str, known: Collection[str], theirs: Mapping[str, str]) -> UsageError:
    """The error of an argument that there is not.

    Args:
        name: of the argument.
        known: the arguments that there are.
        theirs: one of the tables of this module.
    """
    hint = theirs.get(name) or did_you_mean(name, known) or f"there are: {', '.join(known)}"
    return UsageError("unknown argument", field=name, hint=hint)


def refuse_unknown(given: Mapping[str, object], function: Callable[..., Any], theirs: Mapping[str, str]) -> None:
    """Refuse arguments that a function does not have.

    Args:
        given: the arguments that are left over.
        function: the function.
        theirs: one of the tables of this module.

    Raises:
        UsageError: there is one.
    """
    for name in given:
        kinds = inspect.signature(function).parameters.values()
        raise unknown_argument(name, [each.name for each in kinds if each.kind is not each.VAR_KEYWORD], theirs)


def missing_attribute(owner: str, name: str, theirs: Mapping[str, str]) -> AttributeError | None:
    """The error of an attribute that goes by another name; None where the table has no such name.

    Args:
        owner: what lacks it, for the message.
        name: of the attribute.
        theirs: one of the tables of this module.
    """
    if name not in theirs:
        return None
    return MissingNameError(f"{owner} has no such attribute", field=name, hint=theirs[name])
