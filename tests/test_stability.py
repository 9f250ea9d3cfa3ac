"""The public names are those of docs/stability.md, and a deprecated one works with a warning."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import vedcore.nn
from tests.test_imports import imports
from vedcore.deprecated_names import DEPRECATED, Deprecated, getattr_for

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "plugins"
PAGE = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
OTHERS = "Names of other modules"


def listed(section: str) -> list[str]:
    """The names in the first column of a section's table."""
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


NAMES = {section.split("\n")[0].strip("`"): listed(section) for section in SECTIONS if "\n| names |" in section}


def test_the_page_has_the_public_modules() -> None:
    assert set(NAMES) == {
        OTHERS,
        "vedcore",
        "vedcore.data",
        "vedcore.evaluation",
        "vedcore.export",
        "vedcore.fields",
        "vedcore.formats",
        "vedcore.nn",
        "vedcore.testing",
        "vedcore.transformers_checkpoints",
    }


@pytest.mark.parametrize("module", sorted(NAMES.keys() - {OTHERS}))
def test_a_public_module_exports_the_names_of_the_page(module: str) -> None:
    assert sorted(NAMES[module]) == sorted(importlib.import_module(module).__all__)


def test_the_names_of_other_modules_can_be_imported() -> None:
    for name in NAMES[OTHERS]:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("plugin", sorted(path.name for path in PLUGINS.iterdir()))
def test_the_plugins_of_the_repository_import_public_names_only(plugin: str) -> None:
    public = {f"{module}.{name}" for module, names in NAMES.items() if module != OTHERS for name in names}
    public |= {"vedcore", *NAMES[OTHERS], *(NAMES.keys() - {OTHERS})}
    package = PLUGINS / plugin / plugin.replace("-", "_")
    used = {name for path in package.rglob("*.py") for name, _ in imports(path) if name.partition(".")[0] == "vedcore"}
    assert used
    assert not used - public


def test_a_deprecated_name_works_and_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEPRECATED, "vedcore.nn.FeedForward", Deprecated("vedcore.nn.MLP", "0.3"))
    monkeypatch.setitem(DEPRECATED, "vedcore.build", Deprecated("vedcore.compose", "1.9"))
    said = "vedcore.nn.FeedForward is deprecated, and vedcore 0.5 removes it: write vedcore.nn.MLP"
    with pytest.warns(FutureWarning, match=said) as caught:
        assert vedcore.nn.FeedForward is vedcore.nn.MLP
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(FutureWarning, match=re.escape("vedcore 1.11 removes it: write vedcore.compose")):
        assert vedcore.build is vedcore.compose
    with pytest.raises(AttributeError, match=r"vedcore\.nn.*nonsense"):
        vedcore.nn.nonsense  # noqa: B018


@pytest.mark.parametrize("module", sorted(NAMES.keys() - {OTHERS}))
def test_each_public_module_knows_its_deprecated_names(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in NAMES[module] if name != "__version__")
    monkeypatch.setitem(DEPRECATED, f"{module}.Former", Deprecated(f"{module}.{name}", "0.1"))
    loaded = importlib.import_module(module)
    with pytest.warns(FutureWarning, match=f"write {module}.{name}"):
        assert loaded.Former is getattr(loaded, name)


def test_no_deprecated_name_is_overdue_or_without_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEPRECATED, "vedcore.nn.FeedForward", Deprecated("vedcore.nn.MLP", vedcore.__version__))
    for name, found in DEPRECATED.items():
        now, due = (tuple(map(int, text.split(".")[:2])) for text in (vedcore.__version__, found.removed_in))
        assert now < due, f"remove {name}"
        module, _, attribute = name.rpartition(".")
        with pytest.warns(FutureWarning):
            getattr_for(module)(attribute)
