"""Folders of weights: what reads them, what writes them, and how names there map to names here.

``formats`` finds the format of a folder, and ``native`` is vedcore's own. Below them: ``weights`` (tensors as files),
``safetensors_file`` (one such file), ``folder`` (writing a folder whole), ``snapshot`` (reading one), ``exchange``
(the system calls of both), ``keymap`` (names in other libraries' files) and ``card`` (the README).
"""

from vedcore.checkpoints.formats import Format, LoadOptions, load

__all__ = ["Format", "LoadOptions", "load"]
