"""Write the folders beside this file: tiny models of transformers 4.57.6 in Flax and TensorFlow, with their outputs.

    python tests/weights/legacy/make.py /tmp/legacy-venv

makes that virtual environment (8 GB; remove it afterwards) and runs itself there. A folder has the config.json and the
weights as ``save_pretrained`` writes them, and ``expected.npz``: the framework's own encoder states and logits of
`inputs`. The folder of a part has ``expected.json`` in its place: sha256 of the tensors that transformers makes of
the file for its PyTorch class.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy

HERE = Path(__file__).parent
PACKAGES = ["transformers==4.57.6", "tensorflow==2.21.*", "tf-keras", "flax==0.12.8", "jax==0.10.2", "torch"]
IMAGES, TOKENS, VOCAB, SIDE = 3, 7, 40, 32
TEXT = {"vocab_size": VOCAB, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
ENCODER = {
    "image_size": SIDE,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
BERT = {**TEXT, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
BERT |= {"max_position_embeddings": 24}
BART = {**TEXT, "d_model": 16, "max_position_embeddings": 24, "scale_embedding": True}
BART |= {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 2), ("attention_heads", 2))}
BART |= {"encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "forced_eos_token_id": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "vit": ENCODER,
    "deit": ENCODER,
    "beit": {**ENCODER, "use_relative_position_bias": True, "use_mean_pooling": False, "vocab_size": 8},
    "swin": {
        "image_size": SIDE,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": 4,
        "mlp_ratio": 2.0,
    },
    "bert": BERT,
    "roberta": {**BERT, "max_position_embeddings": 26},
    "gpt2": {**TEXT, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24},
    "bart": BART,
    "mbart": BART,
    "distilbert": {**TEXT, "dim": 12, "n_layers": 2, "n_heads": 2, "hidden_dim": 20, "max_position_embeddings": 24},
}
PAIRS = {
    "vit-gpt2-flax": ("vit", "gpt2"),
    "vit-bert-flax": ("vit", "bert"),
    "vit-bart-flax": ("vit", "bart"),
    "beit-roberta-flax": ("beit", "roberta"),
    "vit-gpt2-tf": ("vit", "gpt2"),
    "vit-bert-tf": ("vit", "bert"),
    "deit-roberta-tf": ("deit", "roberta"),
    "swin-bert-tf": ("swin", "bert"),
    "vit-gpt2-flax-shards": ("vit", "gpt2"),
    "vit-bert-tf-shards": ("vit", "bert"),
}
"""Folders of whole models; the second word from the end, or the last, is the framework."""
PARTS = {
    "bart-flax": ("bart", "BartForConditionalGeneration"),
    "distilbert-flax": ("distilbert", "DistilBertForMaskedLM"),
    "bart-tf": ("bart", "BartForConditionalGeneration"),
    "mbart-tf": ("mbart", "MBartForConditionalGeneration"),
    "distilbert-tf": ("distilbert", "DistilBertForMaskedLM"),
    "swin-tf": ("swin", "SwinForImageClassification"),
}
"""Folders of parts, within larger models."""


def inputs() -> tuple[numpy.ndarray, numpy.ndarray]:
    """The pixels and the decoder's token ids of all expected outputs; no id is that of padding."""
    random = numpy.random.RandomState(0)  # whose numbers never change
    pixels = random.standard_normal((IMAGES, 3, SIDE, SIDE)).astype("float32")
    return pixels, random.randint(3, VOCAB, (IMAGES, TOKENS))


def main() -> None:
    """Write all folders, or those that are named after the environment's path."""
    environment, names = Path(sys.argv[1]), sys.argv[2:]
    python = environment / "bin" / "python"
    if Path(sys.prefix) != environment.resolve():
        if not python.exists():
            venv.create(environment, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "triton"], check=True)  # crashes TensorFlow
        settings = {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
        subprocess.run([python, __file__, *sys.argv[1:]], check=True, env={**os.environ, **settings})
        return
    for name in names or [*PAIRS, *PARTS]:
        make = write_pair if name in PAIRS else write_part
        make(name, numpy.random.RandomState(sum(name.encode())))


def write_pair(name: str, random: numpy.random.RandomState) -> None:
    """Write the folder of a whole model and its outputs."""
    import transformers

    encoder, decoder = (_config(model_type) for model_type in PAIRS[name])
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 1, 2
    pixels, ids = inputs()
    if "flax" in name:
        model = transformers.FlaxVisionEncoderDecoderModel(config, input_shape=((1, SIDE, SIDE, 3), (1, 1)))
        model.params = _widened(model.params, random)
        first = decoder.pad_token_id + 1 if decoder.model_type == "roberta" else 0  # it counts from 0 itself
        positions = numpy.broadcast_to(numpy.arange(TOKENS) + first, ids.shape)
        out = model(pixels, ids, decoder_position_ids=positions)
    else:
        model = transformers.TFVisionEncoderDecoderModel(config)
        model(pixel_values=pixels, decoder_input_ids=ids)
        _widen_variables(model, random)
        out = model(pixel_values=pixels, decoder_input_ids=ids, decoder_attention_mask=numpy.ones_like(ids))
    folder = HERE / name
    options = {"max_shard_size": "40KB"} if name.endswith("shards") else {}
    model.save_pretrained(folder, **options, **({} if "flax" in name else {"safe_serialization": False}))
    states, logits = numpy.asarray(out.encoder_last_hidden_state), numpy.asarray(out.logits)
    numpy.savez_compressed(folder / "expected.npz", states=states, logits=logits)
    print(name, float(logits.std()), float(numpy.std(logits, axis=0).mean()))


def write_part(name: str, random: numpy.random.RandomState) -> None:
    """Write the folder of an encoder or decoder in a larger model."""
    import transformers
    from transformers.modeling_flax_pytorch_utils import load_flax_checkpoint_in_pytorch_model

    model_type, class_name = PARTS[name]
    flax = name.endswith("flax")
    model = getattr(transformers, ("Flax" if flax else "TF") + class_name)(_config(model_type))
    if flax:
        model.params = _widened(model.params, random)
    else:
        model(model.dummy_inputs)
        _widen_variables(model, random)
    folder = HERE / name
    model.save_pretrained(folder, **({} if flax else {"safe_serialization": False}))
    theirs = getattr(transformers, class_name)(_config(model_type))
    if flax:
        load_flax_checkpoint_in_pytorch_model(theirs, folder / "flax_model.msgpack")
    else:
        transformers.load_tf2_model_in_pytorch_model(theirs, model)
    digests = {key: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for key, tensor in theirs.state_dict().items()}
    (folder / "expected.json").write_text(json.dumps(digests, indent=1) + "\n")
    print(name, len(digests))


def _config(model_type: str) -> Any:
    import transformers

    return transformers.AutoConfig.for_model(model_type, **SETTINGS[model_type])


def _widened(params: Any, random: numpy.random.RandomState) -> Any:
    """Parameters of Flax with values that all differ, and that are far from what a class begins with."""
    import jax

    return jax.tree_util.tree_map(lambda leaf: jax.numpy.asarray(_wide(numpy.asarray(leaf), random)), params)


def _widen_variables(model: Any, random: numpy.random.RandomState) -> None:
    """As `_widened`, of the variables of a TensorFlow model, in place."""
    for variable in model.weights:
        if variable.dtype.is_floating:
            variable.assign(_wide(variable.numpy(), random))


def _wide(values: numpy.ndarray, random: numpy.random.RandomState) -> numpy.ndarray:
    return (0.5 * values + 0.2 * random.standard_normal(values.shape)).astype(values.dtype)


if __name__ == "__main__":
    main()
