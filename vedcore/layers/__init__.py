"""The torch blocks that decoders are made of."""
