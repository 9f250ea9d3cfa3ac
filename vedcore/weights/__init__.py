"""Tensors in files and folders, and how names there map to names here.

``loading`` and ``saving`` are a model's tensors from and to files; below them: ``checking`` (all that does not fit, at
once), ``opening`` (the files that hold the weights), ``safetensors_file`` (one such file), ``torch_file`` and
``pickled`` (the same for old files), ``finite`` (NaN and Inf), ``keymap`` (names in other libraries' files),
``manifest`` (sizes and hashes), ``snapshot`` (reading a folder), ``folder`` (writing one whole) and ``exchange`` (the
system calls of that).
"""
