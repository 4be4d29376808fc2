"""What any program needs: files that survive a kill, registries of names, units, paths and progress."""
