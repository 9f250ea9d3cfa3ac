"""Parts of whole checkpoints: what stands outside of the parts is kept, or named where it does not fit."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

import vedcore

WORDS = ["<s>", "</s>", "<pad>", "<unk>", "<go>", *"abcdefghij"]
ENCODER = {
    "name": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": (16, 16),
}
DECODER = {"name": "gpt2", "n_embd": 36, "n_layer": 1, "n_head": 3, "n_positions": 20}
OTHER_ENCODER = {**ENCODER, "hidden_size": 32}
OTHER_DECODER = {**DECODER, "n_embd": 24}


def tokenizer_of(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.add_special_tokens([word for word in words if word.startswith("<")])
    return tokenizer


def trained(projector: Any = "auto", **options: Any) -> vedcore.VisionEncoderDecoder:
    """A model whose settings outside of its parts are none that the parts would give."""
    model = vedcore.compose(
        ENCODER,
        {**DECODER, **options.pop("decoder", {})},
        projector=projector,
        tokenizer=tokenizer_of(WORDS),
        preprocessing={"image_size": (16, 16), "image_mean": (0.1, 0.2, 0.3)},
        seed=5,
        **options,
    )
    model.token_ids = vedcore.TokenIds(start=4, eos=(1,), pad=2)
    model.generation_config = vedcore.GenerationConfig(
        num_beams=3, max_length=12, forced_eos_token_id=1, no_repeat_ngram_size=2, bad_words_ids=((5, 6),)
    )
    return model


@pytest.fixture(params=["native", "transformers"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    trained().save_pretrained(tmp_path / "whole", format=request.param)
    return str(tmp_path / "whole")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def same_tensors(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def assert_whole(model: vedcore.VisionEncoderDecoder, folder: str) -> None:
    whole = vedcore.load(folder)
    assert same_tensors(model, whole)
    assert model.token_ids == whole.token_ids == vedcore.TokenIds(start=4, eos=(1,), pad=2)
    assert model.generation_config == whole.generation_config
    assert model.generation_config.num_beams == 3
    assert model.processor.preprocessing == whole.processor.preprocessing
    assert model.processor.tokenizer is not None
    assert whole.processor.tokenizer is not None
    assert model.processor.tokenizer.to_str() == whole.processor.tokenizer.to_str()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.generate(images), whole.generate(images))


def test_both_parts_of_one_checkpoint_are_the_model_that_load_gives(folder: str) -> None:
    link = f"{folder}-link"
    os.symlink(folder, link)
    config = Path(folder).with_name("both.json")
    config.write_text(json.dumps({"encoder": folder, "decoder": {"name": folder}}))
    ways: list[tuple[Any, ...]] = [
        (folder, folder),
        (folder, os.path.join(folder, "..", "whole")),
        ({"name": folder}, {"name": link}),
        ({"encoder": folder, "decoder": folder},),
        (str(config),),
    ]
    for way in ways:
        model = vedcore.compose(*way, seed=len(str(way)))
        assert_whole(model, folder)
        plan = vedcore.plan(*way)
        assert plan.notes == ()
        assert plan.fresh_parameters == 0
        assert plan.token_ids == model.token_ids
        report = model.load_reports["projector"]
        assert (report.loaded, report.fresh) == (["proj.weight", "proj.bias"], [])


@pytest.mark.parametrize(
    ("projector", "given"),
    [
        ("linear", {}),
        ({"name": "mlp", "hidden_size": 20, "num_hidden_layers": 2}, {}),
        ({"name": "mlp", "hidden_size": 20}, {"projector_dropout": 0.5}),
        ({"name": "mlp", "hidden_size": 20}, {"projector": {"name": "mlp", "hidden_size": 20, "hidden_act": "relu"}}),
        ("mlp", {"projector": "mlp"}),
    ],
)
def test_a_trained_projector_of_any_kind_is_kept(tmp_path: Path, projector: Any, given: dict[str, Any]) -> None:
    path = str(tmp_path / "whole")
    trained(projector).save_pretrained(path)
    model = vedcore.compose(path, path, **given, seed=1)
    assert same_tensors(model, vedcore.load(path))
    if "projector_dropout" in given:
        assert model.config.projector.fields["dropout"] == 0.5


@pytest.mark.parametrize(
    ("projector", "given"),
    [
        ("linear", {"projector": "mlp"}),
        ("mlp", {"projector": "linear"}),
        ("mlp", {"projector_hidden_size": 7}),
        ("mlp", {"projector": {"name": "mlp", "num_hidden_layers": 3}}),
    ],
)
def test_a_projector_that_does_not_fit_is_named_and_drawn(
    tmp_path: Path, projector: str, given: dict[str, Any]
) -> None:
    path = str(tmp_path / "whole")
    trained(projector).save_pretrained(path)
    with pytest.warns(UserWarning, match=f"not kept: the trained '{projector}' projector of .*whole") as caught:
        model = vedcore.compose(path, path, **given, seed=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    plan = vedcore.plan(path, path, **given)
    assert [note for note in plan.notes if "projector" in note and "not kept" in note] == list(plan.notes)
    assert plan.fresh_parameters == sum(p.numel() for p in model.projector.parameters())
    assert set(model.load_reports) == {"encoder", "decoder"}
    with pytest.warns(UserWarning, match="not kept"):
        again, other = (vedcore.compose(path, path, **given, seed=seed) for seed in (1, 2))
    assert same_tensors(model, again)
    assert not same_tensors(model.projector, other.projector)
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.token_ids.start == 4
    assert model.generation_config.num_beams == 3


def test_equal_widths_leave_nothing_behind(tmp_path: Path) -> None:
    for format in ("native", "transformers"):
        path = str(tmp_path / format)
        model = vedcore.compose(ENCODER, OTHER_DECODER, tokenizer="char", seed=5)
        model.save_pretrained(path, format=format)
        assert same_tensors(vedcore.compose(path, path), model)
        assert vedcore.plan(path, path, projector="mlp").notes == ()
        assert set(vedcore.compose(path, path).load_reports) == {"encoder", "decoder"}


def test_a_projector_that_is_missing_or_damaged_is_an_error(folder: str) -> None:
    path = Path(folder) / "model.safetensors"
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    (name,) = (name for name in header if name.endswith("proj.weight") and name.startswith(("projector.", "enc_to_")))
    raw[start + header[name]["data_offsets"][0]] ^= 1
    path.write_bytes(raw)
    with pytest.raises(vedcore.CheckpointCorruptError, match=r"proj\.weight: another sha256") as caught:
        vedcore.compose(folder, folder)
    assert caught.value.hint == "get it from its source again, or delete manifest.json if you changed it"
    (Path(folder) / "manifest.json").unlink()
    save_file({n: tensor for n, tensor in load_file(path).items() if n != name}, path, {"format": "pt"})
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"1 missing: .*proj\.weight"):
        vedcore.compose(folder, folder)


def test_what_is_not_finite_has_a_hint_for_compose(folder: str) -> None:
    path = Path(folder) / "model.safetensors"
    (Path(folder) / "manifest.json").unlink()
    tensors = load_file(path)
    (name,) = (name for name in tensors if name.endswith("proj.weight") and name.startswith(("projector.", "enc_to_")))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(vedcore.NonFiniteError) as caught:
        vedcore.compose(folder, folder)
    assert "check_finite" not in str(caught.value)


def test_a_folder_of_another_program(tmp_path: Path) -> None:
    """Written by transformers, with a pickle of weights, and its tokens and options in their own places."""
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        hf.ViTConfig(
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=40,
            image_size=16,
            patch_size=8,
        ),
        hf.BertConfig(
            vocab_size=50,
            hidden_size=36,
            num_hidden_layers=1,
            num_attention_heads=3,
            intermediate_size=40,
            max_position_embeddings=20,
        ),
    )
    theirs = hf.VisionEncoderDecoderModel(config).eval()
    theirs.generation_config = hf.GenerationConfig(
        decoder_start_token_id=9, eos_token_id=[2, 7], pad_token_id=1, num_beams=2, max_length=9
    )
    path = str(tmp_path / "theirs")
    theirs.save_pretrained(path)
    hf.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
    torch.save(load_file(Path(path) / "model.safetensors"), Path(path) / "pytorch_model.bin")
    (Path(path) / "model.safetensors").unlink()
    model = vedcore.compose(path, path)
    assert model.token_ids == vedcore.TokenIds(start=9, eos=(2, 7), pad=1)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert model.generate(images).tolist() == theirs.generate(images).tolist()


# -- with changes -----------------------------------------------------------------------------------------------


def test_other_fields_of_the_parts_change_nothing_else(folder: str) -> None:
    model = vedcore.compose(folder, folder, decoder_resid_pdrop=0.3, encoder_drop_path_rate=0.2, dtype="float64")
    assert model.decoder.settings()["resid_pdrop"] == 0.3
    whole = vedcore.load(folder, dtype="float64")
    assert same_tensors(model, whole)
    assert (model.token_ids, model.generation_config) == (whole.token_ids, whole.generation_config)


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ({"token_ids": {"eos": (7,)}}, (4, (7,), 2)),
        ({"token_ids": vedcore.TokenIds(start=6)}, (6, (1,), 2)),
        ({"decoder_eos_token_id": 7}, (4, (7,), 2)),
        ({"decoder_decoder_start_token_id": 8, "decoder_pad_token_id": 3}, (8, (1,), 3)),
        ({"token_ids": None}, (4, (1,), 2)),
    ],
)
def test_ids_that_are_given_replace_their_own_alone(folder: str, given: dict[str, Any], ids: Any) -> None:
    model = vedcore.compose(folder, folder, **given)
    assert tuple(dict(model.token_ids).values()) == ids
    assert model.generation_config.num_beams == 3


def test_ids_of_generation_alone_give_way_to_those_that_are_given(tmp_path: Path) -> None:
    model = trained()
    model.generation_config = model.generation_config.with_options(eos_token_id=(1, 8), decoder_start_token_id=0)
    model.save_pretrained(tmp_path / "whole")
    path = str(tmp_path / "whole")
    kept = vedcore.compose(path, path)
    assert kept.generation_config == model.generation_config
    changed = vedcore.compose(path, path, token_ids={"eos": (7,)}).generation_config
    assert (changed.eos_token_id, changed.decoder_start_token_id) == (None, 0)


def test_a_tokenizer_with_the_same_tokens_keeps_all_ids(folder: str, tmp_path: Path) -> None:
    tokenizer_of(WORDS).save(str(tmp_path / "again.json"))
    for tokenizer in (tokenizer_of(WORDS), str(tmp_path / "again.json"), tokenizer_of(WORDS[:11])):
        model = vedcore.compose(folder, folder, tokenizer=tokenizer)
        assert same_tensors(model, vedcore.load(folder))
        assert tuple(dict(model.token_ids).values()) == (4, (1,), 2)
        assert model.generation_config == vedcore.load(folder).generation_config


def test_ids_of_other_tokens_are_named_and_left_out(folder: str) -> None:
    """``</s>`` and ``<pad>`` have changed places, and ``<go>`` is gone."""
    other = tokenizer_of(["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijk"])
    with pytest.warns(UserWarning, match="not kept") as caught:
        model = vedcore.compose(folder, folder, tokenizer=other)
    assert len(caught) == 1
    said = str(caught[0].message)
    assert all(
        part in said
        for part in ("decoder_start_token_id 4", "eos_token_id 1", "forced_eos_token_id 1", "bad_words_ids")
    )
    assert tuple(dict(model.token_ids).values()) == (0, (2,), 1)
    options = model.generation_config
    assert (options.num_beams, options.forced_eos_token_id, options.bad_words_ids) == (3, None, ())
    assert len(vedcore.plan(folder, folder, tokenizer=other).notes) == 1
    full = {"start": 0, "eos": (2,), "pad": 1}
    with pytest.warns(UserWarning, match="not kept") as caught:
        vedcore.compose(folder, folder, tokenizer=other, token_ids=full)
    assert "pad_token_id" not in str(caught[0].message)


def test_a_tokenizer_in_place_of_an_unreadable_one(folder: str) -> None:
    (Path(folder) / "tokenizer.json").write_text("{")
    with pytest.raises(vedcore.TokenizerError, match="tokenizer= to vedcore.load or compose"):
        vedcore.compose(folder, folder)
    model = vedcore.compose(folder, folder, tokenizer=tokenizer_of(WORDS))
    assert model.token_ids.start == 4


def test_preprocessing_in_place_of_an_unreadable_one(folder: str) -> None:
    (Path(folder) / "preprocessor_config.json").write_text("{")
    with pytest.raises(vedcore.ConfigError, match="preprocessing= to vedcore.load or compose"):
        vedcore.compose(folder, folder)
    assert vedcore.compose(folder, folder, preprocessing={"image_size": (16, 16)}).token_ids.start == 4


# -- one part of a whole checkpoint -----------------------------------------------------------------------------


def test_a_decoder_alone_keeps_its_ids_and_options(folder: str) -> None:
    model = vedcore.compose(OTHER_ENCODER, folder, seed=0)
    whole = vedcore.load(folder)
    assert same_tensors(model.decoder, whole.decoder)
    assert (model.token_ids, model.generation_config) == (whole.token_ids, whole.generation_config)
    assert model.processor.preprocessing != whole.processor.preprocessing
    assert set(model.load_reports) == {"decoder"}
    (note,) = vedcore.plan(OTHER_ENCODER, folder).notes
    assert f"the projector of {folder} is left behind" in note


def test_an_encoder_alone_brings_neither(folder: str) -> None:
    model = vedcore.compose(folder, DECODER, tokenizer="char")
    assert model.generation_config == vedcore.GenerationConfig()
    assert model.token_ids.start != 4
    assert model.processor.preprocessing.image_mean == (0.1, 0.2, 0.3)
    (note,) = vedcore.plan(folder, DECODER, tokenizer="char").notes
    assert f"the projector of {folder} is left behind" in note


def test_two_checkpoints_are_not_one(folder: str) -> None:
    other = shutil.copytree(folder, f"{folder}-copy")
    model = vedcore.compose(folder, str(other), seed=0)
    assert not same_tensors(model.projector, vedcore.load(folder).projector)
    assert model.token_ids.start == 4
    notes = vedcore.plan(folder, str(other)).notes
    assert [path for note in notes for path in (folder, str(other)) if f"of {path} is" in note] == [folder, str(other)]


def test_parts_that_are_no_whole_checkpoint(folder: str, tmp_path: Path) -> None:
    """Parts written alone: no ids or options of a whole, and no projector to leave behind."""
    model = trained()
    for part in ("encoder", "decoder"):
        model.save_pretrained(tmp_path / part, format="transformers", part=part)
    composed = vedcore.compose(str(tmp_path / "encoder"), str(tmp_path / "decoder"))
    assert composed.generation_config == vedcore.GenerationConfig()
    assert vedcore.plan(str(tmp_path / "encoder"), str(tmp_path / "decoder")).notes == ()


def test_compose_with_a_whole_checkpoint_alone_names_load(folder: str) -> None:
    with pytest.raises(vedcore.UsageError, match=r"vedcore\.load\(") as caught:
        vedcore.compose(folder)
    assert repr(folder) in str(caught.value.hint)
