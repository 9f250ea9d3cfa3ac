"""`torch.export`, `torch.jit.trace` and `torch.compile` take our models as they are called, and give their numbers."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from torch.utils import _pytree as pytree
from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

import vedcore
from vedcore.layers.tracing import holds, is_traced

IMAGE = (16, 32)
_VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": IMAGE,
}
_SWIN = {
    "name": "swin",
    "embed_dim": 12,
    "depths": (1, 2),
    "num_heads": (1, 2),
    "window_size": 4,
    "patch_size": 2,
    "image_size": (32, 32),
}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"name": "vit", **_VIT},
    "deit": {"name": "deit_tiny_distilled_patch16_224", **_VIT},
    "beit": {"name": "beit", **_VIT},
    "swin": _SWIN,
    "donut-swin": {**_SWIN, "name": "swin", "use_absolute_embeddings": True},
    "convnext": {"name": "timm/convnext_atto", "image_size": (64, 64)},
}
_BERT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
_BART = {
    "d_model": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
    "init_std": 0.3,
}
_GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.3}
_DISTILBERT = {
    "dim": 24,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 40,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
DECODERS: dict[str, dict[str, Any]] = {
    "bert": {"name": "bert", **_BERT},
    "roberta": {"name": "roberta", **_BERT},
    "xlm-roberta": {"name": "xlm-roberta", **_BERT},
    "camembert": {"name": "camembert", **_BERT},
    "distilbert": {"name": "distilbert", **_DISTILBERT},
    "gpt2": {"name": "gpt2", **_GPT2},
    "bart": {"name": "bart", **_BART},
    "mbart": {"name": "mbart", **_BART},
    "trocr": {"name": "trocr", **_BART},
    "trocr sinusoidal": {"name": "trocr", **_BART, "use_learned_position_embeddings": False},
}
SIZES = ((1, 2), (2, 9), (5, 4))
"""Rows and tokens that a program is run with; it is made with 3 and 6."""
ROWS, TOKENS, PAST = Dim("rows"), Dim("tokens"), Dim("past")


def tiny(encoder: str = "vit", decoder: str = "gpt2", **options: Any) -> Any:
    ids = {"start": 2, "eos": (3,), "pad": 1}
    return vedcore.compose(
        ENCODERS[encoder], DECODERS[decoder], decoder_vocab_size=50, tokenizer=None, seed=7, token_ids=ids, **options
    )


def images(model: Any, rows: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    height, width = size or model.encoder.preprocessing.image_size
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(rows)) * 2


def texts(rows: int = 3, length: int = 6) -> Tensor:
    return torch.randint(4, 50, (rows, length), generator=torch.Generator().manual_seed(length))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def through_a_file(program: Any) -> Any:
    """The program as ``torch.export.load`` reads it back."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_exported_model_gives_our_logits_for_other_batches_and_lengths(decoder: str) -> None:
    model = tiny(decoder=decoder)
    program = through_a_file(
        torch.export.export(
            model,
            (images(model), texts()),
            {"labels": texts()},
            dynamic_shapes={
                "pixel_values": {0: ROWS},
                "decoder_input_ids": {0: ROWS, 1: TOKENS},
                "labels": {0: ROWS, 1: TOKENS},
            },
        )
    )
    for rows, length in SIZES:
        arguments = (images(model, rows), texts(rows, length))
        found, due = (made(*arguments, labels=texts(rows, length)) for made in (program, model))
        assert isinstance(found, vedcore.VisionEncoderDecoderOutput)
        close(found.logits, due.logits)
        close(found.loss, due.loss)
        close(found.encoder_last_hidden_state, due.encoder_last_hidden_state)


@pytest.mark.parametrize(("decoder", "strict"), [("bert", True), ("gpt2", False), ("trocr sinusoidal", False)])
def test_an_exported_model_shifts_labels(decoder: str, strict: bool) -> None:
    model = tiny(decoder=decoder)
    program = torch.export.export(
        model,
        (),
        {"pixel_values": images(model), "labels": texts()},
        dynamic_shapes={"pixel_values": {0: ROWS}, "labels": {0: ROWS, 1: TOKENS}},
        strict=strict,
    ).module()
    for rows, length in SIZES:
        labels = texts(rows, length)
        labels[0, length // 2 :] = -100
        found, due = (made(pixel_values=images(model, rows), labels=labels) for made in (program, model))
        close(found.loss, due.loss)
        close(found.logits, due.logits)


@pytest.mark.parametrize(("decoder", "strict"), [*((name, False) for name in DECODERS), ("gpt2", True)])
def test_an_exported_prefill_and_step_keep_a_cache(decoder: str, strict: bool) -> None:
    model = tiny(decoder=decoder)
    arguments = {"pixel_values": images(model), "decoder_input_ids": texts(), "use_cache": True}
    shapes: dict[str, Any] = {"pixel_values": {0: ROWS}, "decoder_input_ids": {0: ROWS, 1: TOKENS}, "use_cache": None}
    prefill = through_a_file(torch.export.export(model, (), arguments, dynamic_shapes=shapes, strict=strict))
    cache = model(**arguments).past_key_values
    layer = [{0: ROWS, 2: PAST}, {0: ROWS, 2: PAST}, {0: ROWS}, {0: ROWS}]  # keys, values; those of the image
    step = through_a_file(
        torch.export.export(
            model,
            (),
            {"decoder_input_ids": texts(3, 1), "past_key_values": cache},
            dynamic_shapes={"decoder_input_ids": {0: ROWS}, "past_key_values": layer * len(cache.layers)},
            strict=strict,
        )
    )
    assert cache.length == 6
    for rows, length in SIZES[:2] if strict else SIZES:
        text, pixels = texts(rows, length + 3), images(model, rows)
        found = prefill(pixel_values=pixels, decoder_input_ids=text[:, :length], use_cache=True)
        due = model(pixels, decoder_input_ids=text, use_cache=False).logits
        close(found.logits, due[:, :length])
        for i in range(length, length + 3):
            assert found.past_key_values.length == i
            found = step(decoder_input_ids=text[:, i : i + 1], past_key_values=found.past_key_values)
            close(found.logits[:, 0], due[:, i])


@pytest.mark.parametrize(("encoder", "strict"), [*((name, False) for name in ENCODERS), ("vit", True)])
def test_an_exported_encoder_takes_other_batches(encoder: str, strict: bool) -> None:
    model = tiny(encoder)
    program = through_a_file(
        torch.export.export(model.encoder, (images(model),), dynamic_shapes=({0: ROWS},), strict=strict)
    )
    for rows, _ in SIZES:
        found, due = (made(images(model, rows)) for made in (program, model.encoder))
        assert isinstance(found, vedcore.EncoderOutput)
        close(found.last_hidden_state, due.last_hidden_state)


@pytest.mark.parametrize(("encoder", "sides"), [("vit", Dim), ("deit", Dim), ("beit", Dim), ("vit", None)])
def test_an_exported_encoder_takes_images_of_any_size(encoder: str, sides: Any) -> None:
    encoder_ = (model := tiny(encoder)).encoder
    height, width = (Dim("height", min=16), Dim("width", min=16)) if sides else (Dim.AUTO, Dim.AUTO)
    program = torch.export.export(
        encoder_,
        (images(model, size=(24, 56)),),
        {"interpolate_pos_encoding": True},
        dynamic_shapes={"pixel_values": {0: ROWS, 2: height, 3: width}, "interpolate_pos_encoding": None},
    ).module()
    for size in (IMAGE, (48, 32), (21, 67)):
        pixels = images(model, 2, size)
        found, due = (made(pixels, interpolate_pos_encoding=True) for made in (program, encoder_))
        close(found.last_hidden_state, due.last_hidden_state)


@pytest.mark.parametrize(("encoder", "side"), [("swin", 16), ("donut-swin", 16), ("convnext", 1)])
def test_an_exported_encoder_of_maps_takes_images_of_any_size(encoder: str, side: int) -> None:
    """Swin's in whole windows of its last stage, and more than one."""
    encoder_ = (model := tiny(encoder)).encoder
    units = Dim("rows_of_windows", min=2, max=64), Dim("columns_of_windows", min=2, max=64)
    height, width = (side * unit for unit in units) if side > 1 else (Dim("height", min=64), Dim("width", min=64))
    options = {} if encoder == "swin" else {"interpolate_pos_encoding": True}
    program = torch.export.export(
        encoder_,
        (images(model, size=(80, 96)),),
        options,
        dynamic_shapes={"pixel_values": {0: ROWS, 2: height, 3: width}, **dict.fromkeys(options)},
    ).module()
    for size in ((64, 64), (96, 128), (128, 80)):
        found, due = (made(images(model, 2, size), **options) for made in (program, encoder_))
        close(found.last_hidden_state, due.last_hidden_state)


def test_a_program_exported_before_generating_works_after_it() -> None:
    model = tiny()
    shapes = {"pixel_values": {0: ROWS}, "decoder_input_ids": {0: ROWS, 1: TOKENS}, "use_cache": None}
    arguments = {"pixel_values": images(model), "decoder_input_ids": texts(), "use_cache": False}
    program = torch.export.export(model, (), arguments, dynamic_shapes=shapes)
    copy = tiny()
    model.generate(images(model), max_new_tokens=4)
    arguments = {"pixel_values": images(model, 2), "decoder_input_ids": texts(2, 4), "use_cache": False}
    close(program.module()(**arguments).logits, copy(**arguments).logits)


def test_errors_of_sizes_that_are_known_stay_while_exporting() -> None:
    model = tiny()
    with pytest.raises(vedcore.IncompatibleError, match="41 tokens"):
        torch.export.export(model, (images(model), texts(3, 41)))


class Wrapped(nn.Module):
    """A model that returns what `torch.jit.trace` can: tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, decoder_input_ids: Tensor) -> Any:
        return self.model(pixel_values, decoder_input_ids, use_cache=False, return_dict=False)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("pair", [*zip([*ENCODERS, *ENCODERS], DECODERS, strict=False)])
def test_a_trace_takes_other_batches_and_lengths(pair: tuple[str, str]) -> None:
    model = tiny(*pair)
    traced = torch.jit.trace(Wrapped(model), (images(model), texts()))
    for rows, length in (*SIZES, (12, 1)):
        found, due = (made(images(model, rows), texts(rows, length)) for made in (traced, Wrapped(model)))
        for one, other in zip(found, due, strict=True):
            close(one, other)


def theirs() -> Any:
    encoder = ViTConfig(**{**_VIT, "image_size": 32})
    decoder = GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=2, n_positions=40, add_cross_attention=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.pad_token_id, config.decoder_start_token_id = 1, 2
    return VisionEncoderDecoderModel(config).eval()


def graphs(call: Any, calls: list[dict[str, Any]]) -> int:
    """Number of graphs that ``torch.compile`` makes over several calls."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(call, backend=counter)
    for arguments in calls:
        compiled(**arguments)
    return counter.frame_count


CALLS: dict[str, list[dict[str, Any]]] = {
    "labels": [{"labels": texts()}],
    "ids": [{"decoder_input_ids": texts()}],
    "growing text": [{"decoder_input_ids": texts(3, length)} for length in range(3, 12)],
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_compiled_in_no_more_graphs_than_transformers_model(call: str, grad: bool) -> None:
    pixels = torch.randn(3, 3, 32, 32)
    calls = [{"pixel_values": pixels, **arguments} for arguments in CALLS[call]]
    with torch.set_grad_enabled(grad):
        ours, due = (graphs(model, calls) for model in (tiny(image_size=(32, 32)), theirs()))
    assert ours <= due


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_compiled_steps_are_two_graphs(mode: Callable[[], Any]) -> None:
    """The first step, and one for all others."""
    model = tiny()
    with mode():
        cache = model(images(model), decoder_input_ids=texts()).past_key_values
        assert graphs(model, [{"decoder_input_ids": texts(3, 1), "past_key_values": cache}] * 8) <= 2
        assert cache.length == 14
        text = torch.cat([texts(), *[texts(3, 1)] * 9], 1)
        found = model(decoder_input_ids=text[:, -1:], past_key_values=cache).logits
        close(found, model(images(model), decoder_input_ids=text, use_cache=False).logits[:, -1:])


def test_compiled_encoder_is_one_graph() -> None:
    for encoder in ENCODERS:
        model = tiny(encoder)
        assert graphs(model.encoder, [{"pixel_values": images(model)}]) == 1, encoder


def test_layers_are_left_out_at_random_in_an_exported_training_step() -> None:
    model = tiny(decoder="bart", decoder_decoder_layerdrop=0.5, decoder_dropout=0.0, decoder_attention_dropout=0.0)
    model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    program = torch.export.export(model, (), {"pixel_values": images(model), "labels": texts()}).module()
    with torch.no_grad():
        losses = {round(float(program(pixel_values=images(model), labels=texts()).loss), 3) for _ in range(40)}
    assert 2 <= len(losses) <= 4  # two layers, each there or not


def test_a_cache_is_a_pytree_of_its_tensors() -> None:
    model = tiny()
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[0, :2] = 0
    cache = model(images(model), decoder_input_ids=texts(), decoder_attention_mask=mask).past_key_values
    model(decoder_input_ids=texts(3, 1), past_key_values=cache)  # a buffer with spare room
    leaves, spec = pytree.tree_flatten(cache)
    assert [leaf.shape[2] for leaf in leaves[:2]] == [7, 7]
    assert spec == pytree.treespec_loads(pytree.treespec_dumps(spec))
    again = pytree.tree_unflatten(leaves, spec)
    for one in (cache, again):
        assert (one.length, one.rows) == (7, 3)
    found, due = (model(decoder_input_ids=texts(3, 2), past_key_values=c).logits for c in (again, cache))
    assert torch.equal(found, due)
    names = [path[0].key for path, _ in pytree.tree_flatten_with_path(cache)[0]]
    assert names[:4] == ["0.keys", "0.values", "0.cross_keys", "0.cross_values"]
    assert names[-2:] == ["attention_mask", "positions"]
    assert pytree.tree_map(lambda _: None, cache).rows == 0
    assert pytree.tree_leaves(vedcore.DecoderCache(2)) == []


def test_a_saved_program_runs_in_another_process(tmp_path: Path) -> None:
    model = tiny()
    torch.export.save(torch.export.export(model.encoder, (images(model),)), tmp_path / "encoder.pt2")
    code = """
import sys, torch
from vedcore import VisionEncoderDecoder
program = torch.export.load(sys.argv[1]).module()
print(type(program(torch.zeros(3, 3, 16, 32))).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "encoder.pt2"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "EncoderOutput", done.stderr[-2000:]


def test_a_condition_on_sizes_holds_for_all_of_them() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert is_traced()
            return x + (1 if holds(x.shape[0] == 3) else 2) + (10 if holds(x.shape[1] == 4) else 20)

    program = torch.export.export(Asks(), (torch.zeros(3, 4),), dynamic_shapes=({0: ROWS},)).module()
    assert program(torch.zeros(1, 4))[0, 0] == program(torch.zeros(3, 4))[0, 0] == 12
    assert not is_traced()
    assert holds(True)
    assert not holds(False)
