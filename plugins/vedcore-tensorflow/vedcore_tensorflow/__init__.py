"""Models of vedcore in TensorFlow."""
