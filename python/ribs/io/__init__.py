"""Results on the disk: saved, loaded, and as tables that other tools read."""
