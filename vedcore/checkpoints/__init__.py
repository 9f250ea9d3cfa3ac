"""Readers and writers of model folders.

``formats`` finds the format of a folder: ``native`` is vedcore's, ``transformers`` that of Hugging Face's
VisionEncoderDecoderModel. ``model_loading`` builds a model and fills it with weights, ``card`` writes the README, and
``inspection`` reports the contents of a folder without building anything.
"""

from vedcore.checkpoints.formats import Format, LoadOptions, load

__all__ = ["Format", "LoadOptions", "load"]
