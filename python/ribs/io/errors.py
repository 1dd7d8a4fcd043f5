"""What can be wrong with a saved result."""


class FormatError(ValueError):
    """A saved result is damaged, of a newer version, of another model, or none at all."""
