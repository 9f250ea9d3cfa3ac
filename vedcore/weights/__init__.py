"""Tensors in files and folders, and how names there map to names here.

``loading`` and ``saving`` are a model's tensors from and to files; below them: ``checking`` (what does not fit, at
once), ``opening`` (which files hold the weights), ``safetensors_file`` (one such file), ``torch_file`` and ``pickled``
(the same for files of old), ``finite`` (NaN and Inf), ``keymap`` (names in other libraries' files), ``snapshot``
(reading a folder), ``folder`` (writing one whole) and ``exchange`` (the system calls of both).
"""
