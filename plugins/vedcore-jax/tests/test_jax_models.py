"""Models in JAX give the numbers of torch: each family, dropout, gradients, training, types, modules, errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import vedcore
import vedcore_jax
from tests.export.conftest import DECODERS, ENCODERS, tiny
from vedcore.testing import check_registration
from vedcore_jax.model import JaxModel

from .conftest import Pair, text


def near(found: Any, due: Any, relative: float = 1e-5) -> None:
    """Within a share of the greatest number."""
    found, due = (
        each.detach().numpy() if isinstance(each, torch.Tensor) else np.asarray(each) for each in (found, due)
    )
    assert found.shape == due.shape
    assert np.abs(found - due).max() <= relative * np.abs(due).max()


def labels() -> Any:
    """(2, 6) of which two do not count."""
    ids = text()
    ids[1, -2:] = -100
    return ids


PAIRS = [(e, d) for e, d in zip([*ENCODERS, *ENCODERS], DECODERS, strict=False)]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_each_family_gives_the_numbers_and_ids_of_torch(pair: Callable[..., Pair], encoder: str, decoder: str) -> None:
    made = pair(encoder, decoder)
    model, pixels, ids, wanted = made.load(), made.images(2), text(), labels()
    mask = np.ones(ids.shape, bool)
    mask[0, :2] = False
    ids[0, :2] = 1  # padding
    given = {name: torch.from_numpy(each) for name, each in (("pixel_values", pixels), ("labels", wanted.astype(int)))}
    with torch.no_grad():
        due = made.model(
            **given, decoder_input_ids=torch.from_numpy(ids), decoder_attention_mask=torch.from_numpy(mask)
        )
    found = model(pixels, ids, mask, labels=wanted)
    near(found.logits, due.logits)
    near(found.loss, due.loss)
    greedy = made.model.generate(given["pixel_values"], max_new_tokens=8).numpy()
    assert np.array_equal(model.generate(pixels, max_new_tokens=8).sequences, greedy)
    assert model.programs.writes_in_place  # none falls back to joining keys


def test_labels_become_the_text_and_positions_can_be_given(vit: Pair) -> None:
    model, pixels = vit.load(), vit.images(2)
    near(
        model(pixels, labels=labels()).loss,
        vit.model(torch.from_numpy(pixels), labels=torch.from_numpy(labels()).long()).loss,
    )
    usual = model(pixels, text()).logits
    near(model(pixels, text(), None, np.tile(np.arange(6), (2, 1))).logits, usual)
    assert np.abs(model(pixels, text(), None, np.tile(np.arange(6) + 3, (2, 1))).logits - usual).max() > 1e-3


@pytest.mark.parametrize("decoder", ["gpt2", "trocr sinusoidal"])
def test_a_cache_gives_the_logits_of_the_whole(pair: Callable[..., Pair], decoder: str) -> None:
    model, rows = (made := pair("convnext" if "trocr" in decoder else "vit", decoder)).load(), 4
    encoded, ids = model.encode(made.images(2)), text(rows, 6)
    due = model.decode(ids, jnp.repeat(encoded.last_hidden_state, 2, 0)).logits
    cache = model.init_cache(rows, 9, encoded)
    assert {each.shape[0] for each in cache.cross.values()} == {2}  # once an image
    first = model.decode(ids[:, :3], past_key_values=cache)
    found = [first.logits]
    for i in range(3, 6):
        first = model.decode(ids[:, i : i + 1], past_key_values=first.past_key_values)
        found.append(first.logits)
    near(jnp.concatenate(found, 1), due)


def test_a_step_that_does_not_write_in_place_gives_the_same(vit: Pair) -> None:
    model, pixels = vit.load(), vit.images(2)
    due = model.generate(pixels, max_new_tokens=6, num_beams=2).sequences
    model.programs._in_place = None
    assert np.array_equal(model.generate(pixels, max_new_tokens=6, num_beams=2).sequences, due)


def test_dropout_follows_its_key_and_the_law_of_torch(vit: Pair) -> None:
    model, pixels, ids = vit.load(), vit.images(1), text(1)
    pixels, ids = np.repeat(pixels, rows := 400, 0), np.repeat(ids, rows, 0)
    first, same, other = (model(pixels, ids, train=True, dropout_rng=jax.random.key(key)).logits for key in (0, 0, 1))
    assert (first == same).all()
    assert np.abs(first - other).max() > 0.1
    due = vedcore.load(vit.folder).train()(torch.from_numpy(pixels), decoder_input_ids=torch.from_numpy(ids)).logits
    mean, spread = due.detach().numpy().mean(0), due.detach().numpy().std(0)
    assert np.abs((first.mean(0) - mean) / (spread / rows**0.5)).mean() < 1.5  # 1.1 by chance
    assert np.abs(first.std(0) / spread - 1).mean() < 0.06
    with pytest.raises(vedcore.UsageError, match="dropout_rng"):
        model(pixels, ids, train=True)


def test_gradients_are_those_of_torch_with_ties_summed(vit: Pair) -> None:
    pixels, wanted = vit.images(2), labels()
    torch_model = vedcore.load(vit.folder).double().train(False).requires_grad_(True)
    torch_model(torch.from_numpy(pixels).double(), labels=torch.from_numpy(wanted).long()).loss.backward()
    with jax.enable_x64(True):
        model = vit.load(jnp.float64)
        params = {name: each.astype(jnp.float64) for name, each in model.params.items()}
        slope = jax.jit(jax.grad(lambda p: model.apply(p, jnp.asarray(pixels), labels=wanted).loss))(params)
    due = {name: each.grad for name, each in torch_model.named_parameters()}
    assert slope.keys() == due.keys()
    assert "decoder.output.weight" in model.graphs.ties
    for name, each in due.items():
        np.testing.assert_allclose(
            slope[name], each, rtol=0, atol=1e-6 * float(max(g.abs().max() for g in due.values()))
        )


def test_five_steps_of_adamw(vit: Pair) -> None:
    pixels, wanted = vit.images(2), labels()
    torch_model = vedcore.load(vit.folder).train(False).requires_grad_(True)
    theirs = torch.optim.AdamW(torch_model.parameters(), lr=1e-3, weight_decay=1e-2)
    model = vit.load()
    ours = optax.adamw(1e-3, weight_decay=1e-2)
    params, state = model.params, ours.init(model.params)
    descend = jax.jit(jax.value_and_grad(lambda p: model.apply(p, pixels, labels=wanted).loss))
    for _ in range(5):
        due = torch_model(torch.from_numpy(pixels), labels=torch.from_numpy(wanted).long()).loss
        loss, slope = descend(params)
        near(loss, due, 1e-4)
        theirs.zero_grad()
        due.backward()
        theirs.step()
        updates, state = ours.update(slope, state, params)
        params = optax.apply_updates(params, updates)


def test_types_of_computation_and_of_parameters(vit: Pair) -> None:
    pixels, ids = vit.images(2), text()
    usual, model = vit.load(), vit.load(jnp.bfloat16)
    assert model.params["decoder.final_norm.weight"].dtype == jnp.float32
    out = model(pixels, ids, labels=labels())
    assert out.logits.dtype == jnp.bfloat16
    assert out.loss is not None
    assert out.loss.dtype == jnp.float32
    near(out.logits.astype(jnp.float32), usual(pixels, ids).logits, 0.06)
    slope = jax.grad(lambda p: model.apply(p, pixels, labels=labels()).loss)(model.params)
    assert {each.dtype for each in slope.values()} == {jnp.dtype(jnp.float32)}
    assert model.generate(pixels, max_new_tokens=4).sequences.shape[0] == 2
    for cast, dtype in ((usual.to_bf16, jnp.bfloat16), (usual.to_fp16, jnp.float16), (usual.to_fp32, jnp.float32)):
        params = cast(usual.params)
        assert {each.dtype for each in params.values()} == {jnp.dtype(dtype)}
        near(usual(pixels, ids, params=params).logits, usual(pixels, ids).logits, 0.05)
    norms = {name: "norm" not in name for name in usual.params}
    kept = usual.to_bf16(usual.params, norms)
    assert kept["decoder.final_norm.weight"].dtype == jnp.float32
    assert kept["decoder.embedding.weight"].dtype == jnp.bfloat16
    with pytest.raises(vedcore.UsageError, match="int32 cannot be computed with"):
        vit.load(jnp.int32)


def test_modules_of_linen_and_nnx(vit: Pair) -> None:
    pixels, ids, due = vit.images(2), text(), vit.load()(vit.images(2), text()).logits
    linen = vedcore_jax.linen_module(vit.folder)
    variables = linen.init(jax.random.key(0), pixels, ids)
    assert variables["params"].keys() == vit.load().params.keys()
    near(linen.apply(variables, pixels, ids).logits, due)
    dropped = linen.apply(variables, pixels, ids, train=True, rngs={"dropout": jax.random.key(0)}).logits
    assert np.abs(dropped - due).max() > 0.1
    module = vedcore_jax.nnx_module(vit.folder)
    near(nnx.jit(lambda m: m(pixels, ids).logits)(module), due)
    slope = nnx.grad(lambda m: m(pixels, labels=labels()).loss)(module)
    assert len(jax.tree.leaves(slope)) == len(variables["params"])
    assert np.abs(module(pixels, ids, train=True).logits - module(pixels, ids, train=True).logits).max() > 0.1


def test_parameters_go_back_to_torch(vit: Pair, tmp_path: Path) -> None:
    folder, model, pixels = tmp_path / "copy", vit.load(), vit.images(2)
    params = {name: each * 0.9 for name, each in model.params.items()}
    model.save_pretrained(folder, params)
    due = model(pixels, text(), params=params).logits
    near(vedcore_jax.load(folder)(pixels, text()).logits, due)
    near(vedcore.load(folder)(torch.from_numpy(pixels), decoder_input_ids=torch.from_numpy(text())).logits, due)
    with pytest.raises(vedcore.CheckpointWriteError, match="name a new folder"):
        model.save_pretrained(folder)
    vedcore_jax.load(folder).save_pretrained(folder)


CODE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
"""


def in_a_process(code: str, blocked: set[str], *arguments: object) -> str:
    """The output of code that cannot import some packages."""
    command = [sys.executable, "-c", CODE.replace("{blocked}", repr(blocked)) + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout.strip()


def test_the_blob_runs_without_our_code(vit: Pair, tmp_path: Path) -> None:
    from vedcore_jax.blob import write_blob

    write_blob(vit.load(), tmp_path / "generate.stablehlo", max_new_tokens=8)
    np.save(tmp_path / "pixels.npy", pixels := vit.images(5))
    code = """
import jax.export, numpy, safetensors.numpy
folder, blob, pixels = sys.argv[1:]
tensors = {}
for name in ("model", "constants"):
    tensors |= safetensors.numpy.load_file(f"{folder}/{name}.safetensors")
generate = jax.export.deserialize(bytearray(open(blob, "rb").read()))
assert generate.platforms == ("cpu", "cuda", "tpu")
print(generate.call(tensors, numpy.load(pixels)).tolist())
"""
    blocked = {"torch", "vedcore", "vedcore_jax", "flax"}
    found = in_a_process(code, blocked, vit.folder, tmp_path / "generate.stablehlo", tmp_path / "pixels.npy")
    assert json.loads(found) == vit.model.generate(torch.from_numpy(pixels), max_new_tokens=8).tolist()


def test_the_model_runs_without_torch(vit: Pair) -> None:
    code = """
import vedcore_jax, numpy
print(len(vedcore_jax.load(sys.argv[1]).generate(numpy.zeros((1, 3, 16, 32)), max_new_tokens=2).sequences))
"""
    assert in_a_process(code, {"torch"}, vit.folder) == "1"


@pytest.mark.parametrize("package", ["jax", "flax"])
def test_a_missing_package_says_the_line_that_installs_it(vit: Pair, package: str) -> None:
    code = """
import vedcore, vedcore_jax
try:
    vedcore_jax.load(sys.argv[1])
except vedcore.MissingExtraError as error:
    print(error)
"""
    assert in_a_process(code, {package}, vit.folder).endswith(f"pip install {package}")


def test_folders_that_are_not_exports(vit: Pair, tmp_path: Path) -> None:
    vit.model.save_pretrained(tmp_path / "model")
    with pytest.raises(vedcore.CheckpointError, match="vedcore export MODEL FOLDER"):
        vedcore_jax.load(tmp_path / "model")
    copy = shutil.copytree(vit.folder, tmp_path / "copy")
    data = json.loads((copy / "graph.json").read_text())
    (copy / "graph.json").write_text(json.dumps({**data, "version": 99}))
    with pytest.raises(vedcore.CheckpointError, match="version 99"):
        vedcore_jax.load(copy)
    (copy / "graph.json").write_text(json.dumps(data))
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-50])
    with pytest.raises(vedcore.CheckpointCorruptError, match="model.safetensors"):
        vedcore_jax.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(vedcore.CheckpointNotFoundError, match="model.safetensors"):
        vedcore_jax.load(copy)
    shutil.copy(copy / "constants.safetensors", copy / "model.safetensors")
    with pytest.raises(vedcore.CheckpointMismatchError, match="is missing"):
        vedcore_jax.load(copy)


def test_calls_that_do_not_fit(vit: Pair) -> None:
    model = vit.load()
    with pytest.raises(vedcore.UsageError, match="decoder_input_ids or labels"):
        model(vit.images(1))
    with pytest.raises(vedcore.UsageError, match="there is no image"):
        model.decode(text())


def test_registration() -> None:
    check_registration("vedcore_jax")


def test_an_export_is_proved(vit: Pair, tmp_path: Path) -> None:
    report = vit.model.export(tmp_path / "out", to="jax", max_new_tokens=20)
    assert report["holds"]
    assert not report["left_out"]
    assert "generate.stablehlo" in report["bytes"]
    assert isinstance(vedcore_jax.load(tmp_path / "out"), JaxModel)
    with pytest.raises(vedcore.UsageError, match="options: max_new_tokens"):
        vit.model.export(tmp_path / "other", to="jax", beams=3)


def test_parameters_in_transformers_names(vit: Pair, tmp_path: Path) -> None:
    model = vit.load()
    params = {name: each * 0.9 for name, each in model.params.items()}
    vedcore_jax.write_flax(model, tmp_path / "flax", params)
    assert (tmp_path / "flax" / "flax_model.msgpack").exists()
    found = vedcore_jax.read_flax(model, tmp_path / "flax")
    assert found.keys() == params.keys()
    assert all((found[name] == each).all() for name, each in params.items())
    tiny(decoder_n_embd=12).save_pretrained(tmp_path / "other")
    with pytest.raises(vedcore.CheckpointMismatchError, match="export the model of this folder"):
        vedcore_jax.read_flax(model, tmp_path / "other")
