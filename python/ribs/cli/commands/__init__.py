"""The flags of each command, apart from what it does: nothing here imports torch, so that `--help` is there at once."""
