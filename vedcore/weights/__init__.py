"""Tensors in files and folders, and the key maps between names in files and names of the model.

- ``loading`` and ``saving`` read and write the tensors of a model.
- ``checking`` compares a checkpoint with a model; ``keymap`` translates the names of other libraries' files.
- ``opening`` finds the files that hold the weights; ``safetensors_file`` reads one of them, ``torch_file`` and
  ``pickled`` one of the older format; ``finite`` finds NaN and Inf.
- ``snapshot`` reads a folder, ``folder`` writes one as a whole, ``atomic_swap`` has the system calls for that, and
  ``manifest`` the sizes and hashes of its files.
"""
