"""Folders of models: what reads them and what writes them.

``formats`` finds the format of a folder; ``native`` is vedcore's own and ``transformers`` that of the Hugging Face
VisionEncoderDecoder family; ``card`` writes the README.
"""

from vedcore.checkpoints.formats import Format, LoadOptions, load

__all__ = ["Format", "LoadOptions", "load"]
