"""Hints about configuration files, and about ``--set``: each is given, followed, and leads to a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vedcore
from tests.composer.tiny import GPT2 as SMALL_GPT2
from tests.composer.tiny import VIT
from tests.hints.templates import told
from vedcore.cli.app import group
from vedcore.processing.processor import make_tokenizer

Write = Callable[..., Path]
GPT2 = {**SMALL_GPT2, "vocab_size": 400}
PARTS = f"encoder: {json.dumps(VIT)}\ndecoder: {json.dumps(GPT2)}\n"
PARAMETERS = vedcore.plan(VIT, GPT2).parameters


def as_json(**more: Any) -> str:
    return json.dumps({"encoder": VIT, "decoder": GPT2, **more})


def as_toml(more: str = "") -> str:
    tables = {"encoder": VIT, "decoder": GPT2}
    inline = [f"{k} = {{{', '.join(f'{n} = {json.dumps(v)}' for n, v in t.items())}}}" for k, t in tables.items()]
    return "\n".join([*inline, more, ""])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes, name: str = "model.yaml") -> Path:
        (path := tmp_path / name).parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


NESTED = "[" * 70 + "3" + "]" * 70
DIGITS = "9" * 5000
ROWS: list[tuple[str, str, str | bytes, str]] = [
    ("is it the right file?", "a.yaml", PARTS + "#" * 1_000_001, PARTS),
    ("save the file as UTF-8", "a.yaml", PARTS.encode("utf-16"), PARTS),
    ("save the file as UTF-8", "a.yaml", PARTS.encode("utf-16-le"), PARTS),
    ("write key-value pairs", "a.yaml", " \n", PARTS),
    ("write key-value pairs", "a.yaml", "- vit\n- gpt2\n", PARTS),
    ("flatten it", "a.yaml", f"{PARTS}seed: {NESTED}", f"{PARTS}seed: 3"),
    ("flatten it", "a.json", as_json()[:-1] + f', "seed": {NESTED}}}', as_json(seed=3)),
    ("flatten it", "a.toml", as_toml(f"seed = {NESTED}"), as_toml("seed = 3")),
    ("keep one of them", "a.yaml", f"{PARTS}seed: 3\nseed: 4", f"{PARTS}seed: 4"),
    ("keep one of them", "a.json", as_json(seed=3)[:-1] + ', "seed": 4}', as_json(seed=4)),
    ("shorten it", "a.yaml", f"{PARTS}seed: {DIGITS}", f"{PARTS}seed: 9"),
    ("shorten it", "a.json", as_json()[:-1] + f', "seed": {DIGITS}}}', as_json(seed=9)),
    ("shorten it", "a.toml", as_toml(f"seed = {DIGITS}"), as_toml("seed = 9")),
    ("is it {…}? {…}", "a.yaml", f"{PARTS}seed: [3", f"{PARTS}seed: 3"),
    ("is it {…}? {…}", "a.json", as_json()[:-1], as_json()),
    ("is it {…}? {…}", "a.toml", as_toml("seed 3"), as_toml("seed = 3")),
    ("keep one document in a file", "a.yaml", f"{PARTS}---\nseed: 3", PARTS),
    ("use a string as the key", "a.yaml", f"{PARTS}? [seed]\n: 3", f"{PARTS}seed: 3"),
    ("quote it", "a.yaml", f"{PARTS}plugins: {{1: a}}", f"{PARTS}plugins: {{'1': a}}"),
    ("write the keys out", "a.yaml", f"{PARTS}<<: {{seed: 3}}", f"{PARTS}seed: 3"),
    ("write the value out", "a.yaml", f"{PARTS}seed: &seed 3", f"{PARTS}seed: 3"),
    ("write the plain value without it", "a.yaml", f"{PARTS}seed: !!int 3", f"{PARTS}seed: 3"),
    ("write a finite number", "a.yaml", f"{PARTS}seed: .nan", f"{PARTS}seed: 3"),
    ("write text that UTF-8 can encode", "a.json", as_json(tokenizer="\ud800"), as_json(tokenizer="char")),
    ("write it as a quoted string", "a.toml", as_toml("tokenizer = 2024-01-01"), as_toml('tokenizer = "char"')),
    ("add it", "a.yaml", f"encoder: {json.dumps(VIT)}", PARTS),
    ("valid keys: {…}", "a.yaml", f"{PARTS}qqqqqq: 3", f"{PARTS}seed: 3"),
    ("keep one", "a.json", as_json(decoder={**GPT2, "hidden_size": 24}), as_json()),
    ("did you mean {…}?", "a.yaml", f"{PARTS}sede: 3", f"{PARTS}seed: 3"),
    ("give the path of a readable configuration file", "none/a.yaml", b"", PARTS),
    ("make it smaller", "a.json", as_json(encoder={**VIT, "image_size": 3200, "patch_size": 4}), as_json()),
    ("set an id below {…}", "a.json", as_json(token_ids={"start": 400}), as_json(token_ids={"start": 399})),
    ("set an id below {…}", "a.json", as_json(decoder={**GPT2, "eos_token_id": 400}), as_json()),
]


@pytest.mark.parametrize(("template", "name", "bad", "good"), ROWS, ids=[f"{i}-{row[0]}" for i, row in enumerate(ROWS)])
def test_a_file_that_is_mended_as_the_hint_says(
    write: Write, tmp_path: Path, template: str, name: str, bad: str | bytes, good: str
) -> None:
    error = told(template, vedcore.plan, write(bad, name) if bad else tmp_path / name)
    assert error.path is not None
    assert Path(error.path).name == Path(name).name
    assert vedcore.plan(write(good, name)).decoder.name == "gpt2"


def test_a_name_that_says_the_format(write: Write) -> None:
    told("accepted suffixes are {…}", vedcore.plan, path := write(PARTS, "model.cfg"))
    assert vedcore.plan(path.rename(path.with_suffix(".yaml"))).parameters == PARAMETERS
    told("is it {…}? {…}", vedcore.plan, path := write("[decoder]\nname = 'gpt2'\n[encoder]\nname = 'vit'", "b.yaml"))
    assert vedcore.plan(path.rename(path.with_suffix(".toml"))).decoder.name == "gpt2"


def test_files_that_extend_each_other(write: Write) -> None:
    write(f"extends: a.yaml\n{PARTS}", "b.yaml")
    told("break it", vedcore.plan, a := write("extends: b.yaml\nseed: 3", "a.yaml"))
    write(PARTS, "b.yaml")
    assert vedcore.plan(a).parameters == PARAMETERS
    for number in range(20):
        chain = write(f"extends: {number + 1}.yaml", f"{number}.yaml")
    write(PARTS, "20.yaml")
    told("merge some", vedcore.plan, chain.with_name("0.yaml"))
    write("extends: 20.yaml", "7.yaml")
    assert vedcore.plan(chain.with_name("0.yaml")).parameters == PARAMETERS


@pytest.mark.parametrize(
    ("template", "bad"),
    [("name a file", "[b.yaml]"), ("extend a file of the same folder or below", "../b.yaml")],
)
def test_the_file_that_is_extended(write: Write, template: str, bad: str) -> None:
    told(template, vedcore.plan, a := write(f"extends: {bad}", "a.yaml"))
    write(PARTS, "below/b.yaml")
    write("extends: below/b.yaml", "a.yaml")
    assert vedcore.plan(a).parameters == PARAMETERS


def run(*arguments: object) -> None:
    group.main(list(map(str, arguments)), standalone_mode=False)


@pytest.mark.parametrize(
    ("template", "bad", "good"),
    [
        ("write a name of letters, digits, _ or -, then = and the value", ["seed"], ["seed=3"]),
        ("set {…} to a mapping first", ["plugins=1", "plugins.a=b"], ["plugins={}", "plugins.a=b"]),
        ("quote the value", ["tokenizer=[a.json"], ["tokenizer='[a.json'"]),
        ("quote it, or write null for no value", ["seed="], ["seed=null"]),
        ("quote it as a string", ["tokenizer=b: c.json"], ["tokenizer='b: c.json'"]),
        ("shorten it", [f"seed={DIGITS}"], ["seed=9"]),
        ("write a finite number", ["decoder.layer_norm_epsilon=.inf"], ["decoder.layer_norm_epsilon=0.1"]),
    ],
)
def test_set(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    template: str,
    bad: list[str],
    good: list[str],
) -> None:
    path = write(PARTS)
    monkeypatch.chdir(path.parent)
    for name in ("[a.json", "b: c.json"):
        write(make_tokenizer("char").to_str(), name)
    told(template, run, "plan", path, *(word for text in bad for word in ("--set", text)))
    run("plan", path, "--json", *(word for text in good for word in ("--set", text)))
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 400


def test_set_of_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    vedcore.compose(VIT, GPT2, tokenizer="char").save_pretrained(tmp_path / "model")
    Image.new("RGB", (24, 16)).save(image := tmp_path / "a.png")
    template = "write a name of letters, digits, _ or -, then = and the value"
    told(template, run, "generate", tmp_path / "model", image, "--set", "max_new_tokens")
    told("options: {…}", run, "generate", tmp_path / "model", image, "--set", "qqqqqq=3")
    told("did you mean {…}?", run, "generate", tmp_path / "model", image, "--set", "max_new_token=3")
    told("give a text file, one word a line", run, "generate", tmp_path / "model", image, "--lexicon", tmp_path)
    (tmp_path / "words").write_text("one\ntwo\n")
    run("generate", tmp_path / "model", image, "--lexicon", tmp_path / "words", "--set", "max_new_tokens=9")
    assert capsys.readouterr().out.strip() in ("one", "two")
