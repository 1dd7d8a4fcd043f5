import pytest
import torch

from ribs.select.loss import kl_divergence


def test_against_torch():
    torch.manual_seed(0)
    p, q = torch.randn(5, 7) * 3, torch.randn(5, 7) * 3
    expected = torch.nn.functional.kl_div(
        q.double().log_softmax(1), p.double().log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    torch.testing.assert_close(kl_divergence(p, q), expected)
    assert torch.equal(kl_divergence(p, p), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("output", "found"),
    [({"logits": 1}, "dict"), (torch.randn(2, 3, 4), r"\(2, 3, 4\)"), (torch.randn(2, 1), r"\(2, 1\)")],
)
def test_outputs_without_logits(output, found):
    with pytest.raises(TypeError, match=f"output is a? ?{found}.*pass loss="):
        kl_divergence(output, output)
