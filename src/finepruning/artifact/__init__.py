"""The artifact: the small folder that turns the base network into this person's. Its layout, how
it is written and read, and the fingerprint that ties it to its base."""
