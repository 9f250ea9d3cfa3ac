"""Names resolve to entries, without any plugin."""

from __future__ import annotations

import pytest

from vedcore.errors import PluginConflictError, PluginContractError, UnknownComponentError
from vedcore.registry import Entry, Owner, Registry, canonical

CORE, ONE, TWO = Owner("vedcore", "0.1.0"), Owner("One_Dist", "1.0"), Owner("two", "2.0")


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    vit = Entry("vit", "a.b:C", variants=("vit_*",), default_variant="vit_base", aliases=("ViT",))
    made.add([("encoder", vit), ("encoder", Entry("timm", "a.b:D", prefix="timm"))], CORE)
    made.add([("decoder", Entry("gpt2", "a.b:E", variants=("gpt2", "gpt2-medium"), default_variant="gpt2"))], CORE)
    return made


@pytest.mark.parametrize(
    ("kind", "name", "family", "variant"),
    [
        ("encoder", "vit", "vit", "vit_base"),
        ("encoder", "ViT", "vit", "vit_base"),
        ("encoder", "vit_tiny_x", "vit", "vit_tiny_x"),
        ("encoder", "vedcore:vit", "vit", "vit_base"),
        ("encoder", "VedCore:vit_small", "vit", "vit_small"),
        ("encoder", "timm/convnext", "timm", "convnext"),
        ("encoder", "timm/hf-hub:org/name", "timm", "hf-hub:org/name"),
        ("encoder", "vedcore:timm/hf-hub:org/name", "timm", "hf-hub:org/name"),
        ("encoder", "timm", "timm", None),
        ("decoder", "gpt2", "gpt2", "gpt2"),
        ("decoder", "gpt2-medium", "gpt2", "gpt2-medium"),
    ],
)
def test_names_mean_families_and_variants(
    registry: Registry, kind: str, name: str, family: str, variant: str | None
) -> None:
    found = registry.find(kind, name)  # type: ignore[arg-type]
    assert (found.entry.name, found.variant) == (family, variant)


@pytest.mark.parametrize(
    "name", ["", "vot", "timm/", "gpt2", "one:vit", ":vit", "vit:", "vedcore:", "VIT", "__class__", "../vit"]
)
def test_unknown_names(registry: Registry, name: str) -> None:
    with pytest.raises(UnknownComponentError) as error:
        registry.find("encoder", name)
    assert "did you mean" in str(error.value) or "there are: timm, vit" in str(error.value)


def test_an_error_offers_the_nearest_and_stays_short(registry: Registry) -> None:
    with pytest.raises(UnknownComponentError, match="did you mean 'gpt2-medium'"):
        registry.find("decoder", "gpt2-medum")
    registry.add([("decoder", Entry(f"family-{i}", "m:C")) for i in range(300)], ONE)
    registry.notes.append("broken==1.0 (x = y) does not load: ImportError")
    with pytest.raises(UnknownComponentError, match=r"broken==1\.0") as error:
        registry.find("decoder", "zzzzzzzzzzzz\n" * 1000)
    assert len(str(error.value)) <= 300
    assert "family-299" in error.value.details


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(UnknownComponentError, match="there are: none"):
        Registry().find("model", "x")


def test_built_in_names_stay_whoever_takes_them(registry: Registry) -> None:
    registry.add([("encoder", Entry("vit", "x:Y")), ("encoder", Entry("vit_mine", "x:Z"))], ONE)
    registry.add([("encoder", Entry("tt", "x:Y", prefix="timm"))], TWO)
    assert registry.find("encoder", "vit").entry.owner == CORE
    assert registry.find("encoder", "vit_mine").entry.owner == CORE  # a variant, as far as the pattern says
    assert registry.find("encoder", "timm/x").entry.owner == CORE
    assert registry.find("encoder", "one-dist:vit_mine").entry.target == "x:Z"
    mine = next(e for e in registry.entries("encoder") if e.target == "x:Z")
    assert registry.shown_name("encoder", mine) == "One_Dist:vit_mine"
    assert "One_Dist:vit_mine" in str(registry.conflicts("encoder", mine)[0])
    vit = registry.find("encoder", "vit").entry
    assert registry.conflicts("encoder", vit) == []
    assert registry.shown_name("encoder", vit) == "vit"


def test_a_name_of_two_plugins_means_neither(registry: Registry) -> None:
    registry.add([("encoder", Entry("same", "x:A")), ("encoder", Entry("fine", "x:B"))], ONE)
    registry.add([("encoder", Entry("other", "y:A", variants=("same",)))], TWO)
    with pytest.raises(PluginConflictError, match=r"One_Dist==1\.0 and two==2\.0"):
        registry.find("encoder", "same")
    assert registry.find("encoder", "two:same").entry.target == "y:A"
    assert registry.find("encoder", "fine").entry.target == "x:B"
    same = next(e for e in registry.entries("encoder") if e.target == "x:A")
    assert registry.shown_name("encoder", same) == "One_Dist:same"


def test_kinds_do_not_share_names(registry: Registry) -> None:
    registry.add([("decoder", Entry("vit", "x:A"))], ONE)
    assert registry.find("decoder", "vit").entry.owner == ONE
    assert registry.find("encoder", "vit").entry.owner == CORE


def test_adding_is_all_or_nothing(registry: Registry) -> None:
    with pytest.raises(PluginContractError, match="twice"):
        registry.add([("encoder", Entry("new", "x:A")), ("encoder", Entry("new", "x:B"))], ONE)
    with pytest.raises(PluginContractError, match="not a name"):
        registry.add([("encoder", Entry("new", "x:A")), ("encoder", Entry("no/slash", "x:B"))], ONE)
    with pytest.raises(UnknownComponentError):
        registry.find("encoder", "new")
    registry.add([("encoder", Entry("new", "x:A"))], ONE)
    with pytest.raises(PluginContractError, match="twice"):
        registry.add([("encoder", Entry("new", "x:A"))], ONE)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "vit",
        Entry("", "m:C"),
        Entry("a:b", "m:C"),
        Entry("a/b", "m:C"),
        Entry("é", "m:C"),
        Entry("x" * 101, "m:C"),
        Entry("-a", "m:C"),
        Entry("ok", ""),
        Entry("ok", "m"),
        Entry("ok", "m:"),
        Entry("ok", ":C"),
        Entry("ok", "m:C()"),
        Entry("ok", "m x:C"),
        Entry("ok", "m:C", aliases=("b c",)),
        Entry("ok", "m:C", prefix=""),
        Entry("ok", "m:C", variants=("",)),
        Entry("ok", "m:C", variants=(3,)),
        Entry("ok", "m:C", summary=None),
        Entry("ok", "m:C", aliases="ab"),
        Entry("ok", "m:C", default_variant=4),
        Entry(7, "m:C"),
        Entry("ok", None),
    ],
)
def test_malformed_entries_are_refused(registry: Registry, entry: Entry) -> None:
    with pytest.raises(PluginContractError, match="One_Dist") as error:
        registry.add([("encoder", entry)], ONE)
    assert error.value.plugin == "One_Dist"


def test_normal_form_of_distributions() -> None:
    assert {canonical(n) for n in ("A.b_c", "a-b-c", "A__b--C")} == {"a-b-c"}


def test_lists_are_in_order(registry: Registry) -> None:
    registry.add([("encoder", Entry("aaa", "m:C")), ("encoder", Entry("vit", "m:C"))], TWO)
    assert [(e.name, e.owner.distribution) for e in registry.entries("encoder")] == [
        ("aaa", "two"),
        ("timm", "vedcore"),
        ("vit", "two"),
        ("vit", "vedcore"),
    ]
