"""Files of a transformers folder other than weights, read and written: configs, image processors, tokenizers.

Nothing here imports transformers. The tests compare results with those of transformers.
"""
