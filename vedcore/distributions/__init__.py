"""New distributions: a plugin from templates, and the wheel of a trained model."""
