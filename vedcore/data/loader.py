"""Batches of labelled images, decoded in worker processes, the same for any number of them.

Contract, before its code is here::

    loader = Loader(data, model.processor, 8, shuffle=True, seed=0, max_label_length=None, augment="none",
                    bucket=True, workers=2, rank=0, world_size=1, on_unknown="warn", states=None)
    len(loader)                                 # batches of this rank in an epoch; DataError for a stream
    for loaded in loader.epoch(0, state=None):  # state: of the last batch that was used, to go on behind it
        model(**loaded.inputs)                  # Batch: pixel_values or encoder_outputs, labels, encoder_attention_mask
        loaded.names, loaded.texts              # tuples, in the order of the batch
        loaded.state                            # JSON: {"epoch": 0, "batch": 12}, and the place in a stream
    loader.cut                                  # number of labels that were cut to max_label_length
    data.problems                               # now with the rows whose image cannot be decoded

Every rank gets the same number of batches. ``shuffle=False`` keeps the order, for evaluation: each row once.
"""
