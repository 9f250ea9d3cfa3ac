"""Names of timm models: each is checked here before it is given to timm."""

from __future__ import annotations

import timm

from vedcore.errors import UnknownComponentError, close_matches, did_you_mean, printable

__all__ = ["check_timm_name"]


def check_timm_name(name: str, modules: tuple[str, ...] = (), *, path: object = None) -> None:
    """Refuse names that are not registered in timm, as ``resnet18`` and ``vit_base_patch16_224.augreg_in21k`` are.

    A name that passes is a key of timm's registry, so it cannot mean a folder, a hub id or an attribute.

    Args:
        name: an architecture, or an architecture and the ``.tag`` of its published weights.
        modules: timm's modules with the models of a family; empty for any.
        path: the file that the name came from, for messages.

    Raises:
        UnknownComponentError: with the nearest names.
    """
    architecture, dot, _ = name.partition(".")
    shown = printable(name)[:60]
    renamed = timm.models.get_deprecated_models()
    if architecture in renamed:
        hint = f"its name is now {renamed[architecture]!r}"
        raise UnknownComponentError(f"timm has renamed {shown!r}", path=path, hint=hint)
    if not timm.is_model(architecture):
        known = timm.list_models()
        near = close_matches(architecture, [n for n in known if n.startswith(architecture[:3])] or known)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() has them all"
        raise UnknownComponentError(f"timm has no model {shown!r}", path=path, hint=hint)
    if dot and name not in (tagged := timm.list_models(architecture, include_tags=True)):
        hint = did_you_mean(name, tagged) or f"leave the tag out, or choose one of {', '.join(tagged[:3])}"
        raise UnknownComponentError(f"timm has no weights {shown!r}", path=path, hint=hint)
    if modules and not timm.models.is_model_in_modules(architecture, modules):
        raise UnknownComponentError(f"{shown!r} is not a model of this family", path=path, hint=f"write 'timm/{shown}'")
