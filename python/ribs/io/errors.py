"""What can be wrong with a saved result, and with an exported one."""


class FormatError(ValueError):
    """A saved result is damaged, of a newer version, of another model, or none at all."""


class ExportError(ValueError):
    """A network cannot be exported, or what was exported does not compute what it computes."""
