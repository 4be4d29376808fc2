"""General utilities: crash-safe files and locks, name registries, units, paths and progress reporting."""
