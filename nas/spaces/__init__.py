"""The search-space language, and exact statistics of the networks that a space holds."""
