"""Formats of plugins: asked before a config.json is demanded, guarded, checked, and kept from others' folders."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from tests.plugins.test_plugins import site, write_distribution
from vedcore import plugins
from vedcore.checkpoints.inspection import inspect_folder

__all__ = ["site"]

CODE = """
import json, os, torch
import vedcore
from tests.composer.tiny import GPT2, VIT
from vedcore.checkpoints import Format

@vedcore.hookimpl
def register_formats():
    return [vedcore.Entry("{name}", "{name}:Own")]

class Own(Format):
    def recognises(self, folder):
        return (folder / "{name}.json").exists()

    def load(self, folder, options):
        config = json.loads((folder / "{name}.json").read_text())
        model = vedcore.compose(config, device=options["device"], dtype=options["dtype"] or "float32")
        model.load_state_dict(torch.load(folder / "{name}.pt", weights_only=True))
        return model

    def save(self, model, folder):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "{name}.json"), "w") as file:
            json.dump(model.config.model_dump(mode="json"), file)
        torch.save(model.state_dict(), os.path.join(folder, "{name}.pt"))
{more}
"""
OVERRIDE = "    def {method}(self, *arguments, **options):\n        {body}\n"

Install = Callable[..., None]


@pytest.fixture
def install(site: Path) -> Install:
    """``install("own", recognises="1 / 0")``: a plugin with a format of its name, some methods of which are changed."""

    def make(name: str, **methods: str) -> None:
        more = "".join(OVERRIDE.format(method=method, body=body) for method, body in methods.items())
        write_distribution(site, name, CODE.format(name=name, more=more))
        plugins.reset()

    return make


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(VIT, GPT2, seed=1)


def test_a_format_of_an_own_layout_is_saved_and_loaded(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path
) -> None:
    install("own")
    model.save_pretrained(tmp_path / "a", format="own")
    assert not (tmp_path / "a" / "config.json").exists()
    assert same_weights(vedcore.load(tmp_path / "a"), model)
    found = inspect_folder(tmp_path / "a")
    assert (found.format, found.problems) == ("own", [])


@pytest.mark.parametrize("content", ['{"model_type": "own"}', '{"widths": [3]}', "not JSON"])
def test_a_config_json_of_a_plugin_may_hold_anything(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path, content: str
) -> None:
    install("own")
    model.save_pretrained(tmp_path / "a", format="own")
    (tmp_path / "a" / "config.json").write_text(content)
    assert same_weights(vedcore.load(tmp_path / "a"), model)
    assert inspect_folder(tmp_path / "a").format == "own"


@pytest.mark.parametrize(
    ("method", "body", "says"),
    [
        ("recognises", "1 / 0", "recognises fails: ZeroDivisionError"),
        ("recognises", "raise SystemExit(3)", "recognises fails: SystemExit"),
        ("recognises", "return 'yes'", "recognises gives str, not a bool"),
        ("recognises", "return None", "recognises gives NoneType"),
        ("load", "return {}['key']", "load fails: KeyError"),
        ("load", "return None", "load gives NoneType, not a model"),
        ("load", "return torch.nn.Linear(1, 1)", "load gives Linear, not a model"),
        ("load", "return vedcore.compose(VIT, GPT2).train()", "in training mode"),
        ("load", "return vedcore.compose(VIT, GPT2, dtype='float16')", "float16, not torch.float32"),
        ("__init__", "raise OSError('gone')", "its constructor fails: OSError"),
    ],
)
def test_a_call_that_fails_is_an_error_of_its_plugin(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path, method: str, body: str, says: str
) -> None:
    install("own")
    model.save_pretrained(tmp_path / "a", format="own")
    bad = {"recognises": "return (arguments[0] / 'own.json').exists()", method: body}
    plugins.configure(block=["own"])
    install("bad", **bad)
    with pytest.raises(vedcore.PluginContractError, match=r"format 'bad' of bad==1\.0") as error:
        vedcore.load(tmp_path / "a", dtype="float32")
    assert says in str(error.value)
    assert error.value.plugin == "bad"
    assert len(str(error.value)) <= 300


def test_an_error_of_vedcore_passes_and_names_the_plugin(install: Install, tmp_path: Path) -> None:
    install("own", load="raise vedcore.CheckpointError('torn', path=arguments[0])")
    (tmp_path / "own.json").touch()
    with pytest.raises(vedcore.CheckpointError, match="torn") as error:
        vedcore.load(tmp_path)
    assert error.value.plugin == "own"


@pytest.mark.parametrize(
    ("body", "says"), [("1 / 0", "save fails: ZeroDivisionError"), ("return None", "save writes nothing there")]
)
def test_a_save_that_fails(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path, body: str, says: str
) -> None:
    install("own", save=body)
    with pytest.raises(vedcore.PluginContractError, match=says) as error:
        model.save_pretrained(tmp_path / "new", format="own")
    assert error.value.plugin == "own"


def test_two_formats_that_claim_a_folder_are_both_named(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path
) -> None:
    install("own")
    install("twin", recognises="return (arguments[0] / 'own.json').exists()")
    model.save_pretrained(tmp_path / "a", format="own")
    with pytest.raises(vedcore.PluginConflictError) as error:
        vedcore.load(tmp_path / "a")
    assert "'own' of own==1.0" in str(error.value)
    assert "'twin' of twin==1.0" in str(error.value)
    plugins.configure(block=["twin"])
    assert same_weights(vedcore.load(tmp_path / "a"), model)


ALL = [
    "return True",
    "return arguments[0].is_dir()",
    "return (arguments[0] / 'config.json').exists()",
    "return (arguments[0] / 'model.safetensors').exists()",
]


@pytest.mark.parametrize("body", ALL)
def test_a_format_that_claims_all_takes_nobodys_folder(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path, body: str
) -> None:
    install("own")
    install("aaa", recognises=body)
    model.save_pretrained(tmp_path / "own", format="own")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "own" / file).write_text("{}")
    with pytest.warns(UserWarning, match=r"format 'aaa' of aaa==1\.0 is left out: it recognises any folder"):
        assert same_weights(vedcore.load(tmp_path / "own"), model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in ("native", "transformers"):
            model.save_pretrained(tmp_path / format, format=format)
            assert same_weights(vedcore.load(tmp_path / format), model)
            assert inspect_folder(tmp_path / format).format == format


def test_a_format_that_fails_stops_no_other(
    install: Install, model: vedcore.VisionEncoderDecoder, tmp_path: Path
) -> None:
    install("own")
    install("aaa", recognises="1 / 0")
    model.save_pretrained(tmp_path / "own", format="own")
    with pytest.warns(UserWarning, match="left out: .*aaa"):
        assert same_weights(vedcore.load(tmp_path / "own"), model)
    model.save_pretrained(tmp_path / "theirs", format="transformers")
    assert same_weights(vedcore.load(tmp_path / "theirs"), model)


def test_a_folder_of_no_format_is_reported_as_without_plugins(install: Install, tmp_path: Path) -> None:
    install("own")
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"no config\.json"):
        vedcore.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(vedcore.ConfigParseError, match=r"config\.json"):
        vedcore.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "zorg"}))
    with pytest.raises(vedcore.CheckpointError, match="which no installed format reads"):
        vedcore.load(tmp_path)
