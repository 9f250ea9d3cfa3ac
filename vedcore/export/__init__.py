"""Models as graphs of tensors alone, for other frameworks."""
