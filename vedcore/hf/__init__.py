"""What a folder of transformers holds beside tensors, as ours and back: configs, settings of images, tokenizers.

Nothing here imports transformers. What is equal to it is so by its files and its arithmetic.
"""
