"""What the core itself registers: projectors and commands."""

from __future__ import annotations

from vedcore.hookspecs import hookimpl
from vedcore.registry import Entry


@hookimpl
def register_projectors() -> list[Entry]:
    """The projectors that need no plugin."""
    return [
        Entry("identity", "vedcore.projectors:IdentityProjector", "nothing: for equal widths"),
        Entry("linear", "vedcore.projectors:LinearProjector", "one linear layer with bias"),
        Entry("mlp", "vedcore.projectors:MLPProjector", "linear layers with an activation between"),
    ]


@hookimpl
def register_commands() -> list[Entry]:
    """The commands that need no plugin."""
    return [
        Entry("cache", "vedcore.cli.hub:cache", "Look after the cache of models."),
        Entry("compose", "vedcore.cli.composing:compose", "Build a model and write it to a folder."),
        Entry("convert", "vedcore.cli.checkpoints:convert", "Write a model in another format."),
        Entry("generate", "vedcore.cli.generating:generate", "Read or describe images with a model."),
        Entry("inspect", "vedcore.cli.checkpoints:inspect", "Tell what is in a folder, with nothing built."),
        Entry("list", "vedcore.cli.listing:list_command", "List encoders, decoders, projectors, models, ..."),
        Entry("plan", "vedcore.cli.composing:plan", "Show what a model would be, with nothing built."),
        Entry("plugins", "vedcore.cli.listing:plugins", "Show the plugins that are installed, and whether they work."),
        Entry("pull", "vedcore.cli.hub:pull", "Fetch a model of the hub and print its folder."),
    ]


@hookimpl
def register_formats() -> list[Entry]:
    """The folders that ``save_pretrained`` writes."""
    return [
        Entry("native", "vedcore.checkpoints.native:NativeFormat", "vedcore's own folder"),
        Entry(
            "transformers",
            "vedcore.checkpoints.transformers:TransformersFormat",
            "the folder of transformers' VisionEncoderDecoderModel",
        ),
    ]
