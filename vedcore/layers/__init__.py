"""The torch blocks that every decoder is composed of."""
