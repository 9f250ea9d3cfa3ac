"""Names of transformers that vedcore does not have, and what to write in their place.

docs/from-transformers.md has those that it has by another name too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vedcore.errors import MissingNameError, UsageError, did_you_mean

__all__ = [
    "GENERATING",
    "GENERATION_CONFIG",
    "LOADING",
    "PROCESSOR",
    "SAVING",
    "TOKENIZER",
    "TOP",
    "missing_attribute",
    "unknown_argument",
]

LOADING = {
    "attn_implementation": "leave it out: any model gives its attentions",
    "config": "give image_size=, tokenizer= or preprocessing=; others are fields of vedcore.compose(folder, folder)",
    "force_download": "leave it out: `vedcore pull` replaces files that are damaged",
    "from_flax": "save the model with transformers 4 as safetensors first",
    "from_tf": "save the model with transformers 4 as safetensors first",
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
    "attention_mask": "give decoder_attention_mask= for a text, or encoder_attention_mask= for images",
    "bos_token_id": "give decoder_start_token_id=, with which a text starts",
    "cache_implementation": "leave it out, or give compile=True",
    "custom_generate": "leave it out: a way of searching comes from a plugin",
    "input_ids": "give decoder_input_ids=",
    "trust_remote_code": "leave it out",
    "use_model_defaults": "leave it out, or give generation_config=vedcore.GenerationConfig()",
}
"""Arguments of ``generate``."""

GENERATION_CONFIG = {
    "save_pretrained": "call model.save_pretrained(folder), which writes it too",
    "to_diff_dict": "call model_dump(exclude_defaults=True)",
}
"""Attributes of a ``GenerationConfig``."""

TOKENIZER = {
    "additional_special_tokens": "read all_special_tokens",
    "as_target_tokenizer": "call model.processor(text=…), which makes labels",
    "batch_encode_plus": "call the tokenizer itself",
    "build_inputs_with_special_tokens": "call the tokenizer itself, which adds them",
    "convert_tokens_to_string": "call decode(convert_tokens_to_ids(tokens))",
    "encode_plus": "call the tokenizer itself",
    "pad": "give padding=True to the call, or take model.processor.collate",
    "special_tokens_map": "read bos_token, eos_token, pad_token and all_special_tokens",
    "vocab": "call get_vocab()",
}
"""Attributes of a tokenizer."""

PROCESSOR = {
    "as_target_processor": "call model.processor(text=…), which makes labels",
    "feature_extractor": "call model.processor itself; its settings are model.processor.preprocessing",
    "image_processor": "call model.processor itself; its settings are model.processor.preprocessing",
    "token2json": "call vedcore.fields.parse(text)",
}
"""Attributes of a processor."""

TOP = {
    "AutoImageProcessor": "take vedcore.Processor",
    "AutoModelForImageTextToText": "take vedcore.VisionEncoderDecoder",
    "AutoModelForVision2Seq": "take vedcore.VisionEncoderDecoder",
    "AutoProcessor": "take vedcore.Processor",
    "AutoTokenizer": "take vedcore.Processor, whose tokenizer is an attribute",
    "DonutProcessor": "take vedcore.Processor, and vedcore.fields.parse for token2json",
    "NougatProcessor": "take vedcore.Processor",
    "Seq2SeqTrainer": "import it from transformers, which trains models of vedcore",
    "TrOCRProcessor": "take vedcore.Processor",
    "Trainer": "import it from transformers, which trains models of vedcore",
    "ViTFeatureExtractor": "take vedcore.Processor",
    "ViTImageProcessor": "take vedcore.Processor",
    "VisionEncoderDecoderConfig": "take vedcore.ModelConfig",
    "VisionEncoderDecoderModel": "take vedcore.VisionEncoderDecoder",
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
