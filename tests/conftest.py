from hypothesis import settings

# A test has a time limit; a single example on a busy machine has none.
settings.register_profile("leash", deadline=None)
settings.load_profile("leash")
