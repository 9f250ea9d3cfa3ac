"""The parts that the core registers itself: projectors, commands, folder formats and the export of graphs."""

from __future__ import annotations

from vedcore.hookspecs import hookimpl
from vedcore.registry import Entry


@hookimpl
def register_projectors() -> list[Entry]:
    """The built-in projectors."""
    return [
        Entry("identity", "vedcore.projectors:IdentityProjector", "no layer: for equal widths"),
        Entry("linear", "vedcore.projectors:LinearProjector", "one linear layer with bias"),
        Entry("mlp", "vedcore.projectors:MLPProjector", "linear layers with activations between them"),
    ]


@hookimpl
def register_commands() -> list[Entry]:
    """The built-in commands."""
    return [
        Entry("cache", "vedcore.cli.hub:cache", "Manage the cache of models."),
        Entry("check", "vedcore.cli.checking:check", "Check that parts keep their contracts."),
        Entry("compose", "vedcore.cli.composing:compose", "Build a model and write it to a folder."),
        Entry("convert", "vedcore.cli.checkpoints:convert", "Write a model in another format."),
        Entry("evaluate", "vedcore.cli.evaluating:evaluate", "Compare a model's texts with labels."),
        Entry("export", "vedcore.cli.exporting:export", "Write a model for another framework, with a proof."),
        Entry("generate", "vedcore.cli.generating:generate", "Read or describe images with a model."),
        Entry("inspect", "vedcore.cli.checkpoints:inspect", "Describe the contents of a folder; nothing is built."),
        Entry("list", "vedcore.cli.listing:list_command", "List encoders, decoders, projectors, models, ..."),
        Entry("new-plugin", "vedcore.cli.distributing:new_plugin", "Write a plugin that works, to begin from."),
        Entry("package", "vedcore.cli.distributing:package", "Make an installable wheel of a model."),
        Entry("plan", "vedcore.cli.composing:plan", "Show the plan of a model; nothing is built."),
        Entry("plugins", "vedcore.cli.listing:plugins", "Show the plugins that are installed, and whether they work."),
        Entry("pull", "vedcore.cli.hub:pull", "Download a model from the hub and print its folder."),
        Entry("train", "vedcore.cli.training:train", "Train a model on labelled images."),
    ]


@hookimpl
def register_exporters() -> list[Entry]:
    """The graphs that every export has."""
    return [Entry("graph", "vedcore.export.running:GraphExporter", "graphs of tensors alone, and the weights")]


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
        Entry(
            "flax",
            "vedcore.checkpoints.transformers:FlaxFormat",
            "that folder with flax_model.msgpack, which transformers 4 loads in Flax",
        ),
    ]
