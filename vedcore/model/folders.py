"""Folders and repositories of a composed model: methods by transformers' names, which call what does it."""

from __future__ import annotations

import importlib
import os
import tempfile
from typing import Any, NoReturn, Self

from vedcore.errors import UsageError
from vedcore.layers.sharing import shares
from vedcore.model.training import TrainableModel
from vedcore.transformers_names import SAVING

__all__ = ["SavedModel"]


class SavedModel(TrainableModel):
    """A model that is read from folders and repositories, and written to them."""

    @classmethod
    def from_encoder_decoder_pretrained(
        cls, encoder_pretrained_model_name_or_path: str, decoder_pretrained_model_name_or_path: str, **_: object
    ) -> NoReturn:
        """Not here: `vedcore.compose` is the function.

        Raises:
            UsageError: always.
        """
        encoder, decoder = (
            name if "/" not in name or os.path.isdir(name) else f"hub:{name}"
            for name in (encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path)
        )
        raise UsageError(
            "no such method",
            field="from_encoder_decoder_pretrained",
            hint=f"call vedcore.compose({encoder!r}, {decoder!r}, pretrained=True)",
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """`vedcore.load` by transformers' name.

        Args:
            pretrained_model_name_or_path: ``folder_or_name`` of `vedcore.load`.
            options: its keyword arguments.

        Raises:
            UsageError: an argument that `vedcore.load` does not have.
            VedcoreError: as `vedcore.load`.
        """
        load = importlib.import_module("vedcore.checkpoints").load  # it stands above this module
        model: Self = load(pretrained_model_name_or_path, **options)
        return model

    @shares
    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, format: str = "native", **options: Any
    ) -> None:
        """Write the model as a folder; `vedcore.load` reads it back bit for bit.

        Args:
            save_directory: created, or swapped as a whole for the new one; other files in it stay.
            format: a registered checkpoint format; ``"native"`` is vedcore's own, ``"transformers"`` that of its
                VisionEncoderDecoderModel, ``"flax"`` the same with the weights of its Flax class.
            options: of the format, such as ``max_shard_size="5GB"``, or ``part="decoder"`` of transformers'.

        Raises:
            CheckpointWriteError: the folder cannot be written, or could not be loaded: it would hold adapters that were
                not merged, or layers that the config does not build. Nothing was changed.
        """
        from vedcore.plugins import make_format

        for name in options.keys() & SAVING.keys():
            raise UsageError("unknown argument", field=name, hint=SAVING[name])
        make_format(format).save(self, save_directory, **options)

    @shares
    def export(self, output: str | os.PathLike[str], to: str = "graph", **options: Any) -> dict[str, Any]:
        """Write the model for another framework, with the proof that it gives the same; nothing of the model changes.

        Args:
            output: created, or replaced as a whole where it is an earlier export.
            to: a target of ``vedcore export --list``: ``"graph"``, or that of a plugin, such as ``"jax"``.
            options: of the target.

        Returns:
            The report, which is ``export_report.json`` in the folder: checks, sizes in bytes, seconds.

        Raises:
            IncompatibleError: a part that cannot be exported, with its place in the source; a proof that does not hold.
            MissingExtraError: a package that the target needs is not installed.
            UsageError: a folder that is not an export, an unknown option.
            CheckpointWriteError: the folder cannot be written.
        """
        write = importlib.import_module("vedcore.export.exporting").export  # it stands above this module
        report: dict[str, Any] = write(self, output, to, **options)
        return report

    def load_adapter(
        self,
        folder_or_name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Merge adapters of LoRA that PEFT trained into the weights: W + scale * B A, computed in float32.

        Their names are those of a model of vedcore or of transformers' VisionEncoderDecoderModel, or of one part of it.
        Modules that PEFT stored whole (``modules_to_save``, biases) are replaced. An output layer that shares its
        weight with the embedding gets its own where the two are adapted differently. Nothing is changed on an error.
        To train adapters further, or to take them out again, open the folder with ``peft.PeftModel.from_pretrained``.

        Args:
            folder_or_name: a folder with ``adapter_config.json``, or a repository on the hub, as in `vedcore.load`.
            revision: branch, tag or commit of the repository.
            subfolder: the folder within the folder or repository.
            token: of the hub; by default that of ``HF_TOKEN`` or of the login.
            cache_dir: of the hub's files.
            local_files_only: use cached files only.

        Raises:
            IncompatibleError: adapters of another kind than plain LoRA; a model with adapters that were not merged.
            CheckpointError: files that are missing or damaged; tensors that are not those of the model's modules.
            ConfigSchemaError: a bad value in ``adapter_config.json``.
            NonFiniteError: NaN or Inf in them, or in a weight once merged.
            HubError: the repository cannot be fetched.
        """
        merge = importlib.import_module("vedcore.adapters").merge_adapter  # it stands above this module
        hub = {"subfolder": subfolder, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        merge(self, folder_or_name, revision, **hub)
        return self

    def push_to_hub(
        self,
        repo: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload model",
        create_pr: bool = False,
        token: str | None = None,
        **options: Any,
    ) -> str:
        """Write the model to a repository of the hub, in one commit; a missing repository is created.

        Args:
            repo: ``org/name``.
            revision: the branch; main by default.
            private: whether a created repository is private.
            commit_message: of the commit.
            create_pr: open a pull request instead.
            token: of the hub; by default the one that ``hf auth login`` or ``HF_TOKEN`` set.
            options: as `save_pretrained` takes them, ``format`` too.

        Returns:
            The address of the commit.

        Raises:
            HubError: the hub refuses it.
        """
        from vedcore.hub import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(os.path.join(folder, "model"), **options)
            return push_folder(
                os.path.join(folder, "model"),
                repo,
                revision=revision,
                private=private,
                commit_message=commit_message,
                create_pr=create_pr,
                token=token,
            )
