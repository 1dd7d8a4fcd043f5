"""What was made of tensors, and whether it is still true of them."""

from torch import Tensor


class Watch:
    """Tells when tensors are no longer those of the last time, or hold something else since."""

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, ...] = ()  # held, so that no other tensor takes their address
        self._seen: list[tuple[int, int]] = []

    def changed(self, *tensors: Tensor) -> bool:
        """Whether anything changed since the last call, which did not know of it; true at the first."""
        # Tensors made in inference mode count no versions: they are only changed there.
        seen = [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors]
        if seen == self._seen:
            return False
        self._tensors, self._seen = tensors, seen
        return True
