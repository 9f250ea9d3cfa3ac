"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("vedcore", deadline=None)  # machines are noisy: no example fails for being slow
settings.load_profile("vedcore")
