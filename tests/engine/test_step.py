import pytest
import torch
from torch import nn

from mask_former.engine.step import TrainStep


class Line(nn.Module):
    """loss_a = w x, loss_b = 2 w x; remembers in which type it multiplied."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[3.0]]))

    def forward(self, batch):
        x = torch.tensor([[record["x"] for record in batch]])
        product = (self.w @ x).sum()
        self.dtype = (self.w @ x).dtype
        return {"loss_a": product, "loss_b": 2 * product}


def make_step(**kwargs):
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, TrainStep(model, optimizer, device_type="cpu", **kwargs)


def test_one_step_by_hand():
    model, step = make_step()
    model.w.grad = torch.tensor([[100.0]])  # of an earlier step: must not count
    losses = step.forward_backward([{"x": 1.0}, {"x": 4.0}])
    assert {name: loss.item() for name, loss in losses.items()} == {"loss_a": 15, "loss_b": 30}
    assert not any(loss.requires_grad for loss in losses.values())
    assert model.w.grad.item() == 15  # (1 + 2) * (1 + 4)
    assert model.w.item() == 3
    step.update()
    assert model.w.item() == pytest.approx(3 - 0.1 * 15)


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_precision_of_the_forward_pass(amp_dtype):
    model, step = make_step(amp_dtype=amp_dtype)
    losses = step.forward_backward([{"x": 1.0}])
    assert model.dtype is (amp_dtype or torch.float32)
    assert model.w.grad.dtype is losses["loss_a"].dtype is torch.float32


def test_a_loss_that_is_not_finite_is_reported_before_the_weights_change():
    model, step = make_step()
    batch = [{"x": 1.0, "file_name": "a.jpg"}, {"x": float("inf"), "file_name": "b.jpg"}]
    with pytest.raises(FloatingPointError, match=r"loss_a = inf.*a\.jpg, b\.jpg"):
        step.forward_backward(batch)
    assert model.w.item() == 3


def test_a_model_in_evaluation_mode_is_not_trained():
    model, step = make_step()
    model.eval()
    with pytest.raises(AssertionError):
        step.forward_backward([{"x": 1.0}])
