"""Teachers follow their student and are never trained."""

import pytest
import torch
from torch import Tensor, nn

from maskery.nn.teacher import Ema, distance


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def moved(student: nn.Module, seed: int) -> list[Tensor]:
    """Give the student other parameters; returns copies of them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in student.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return [p.detach().clone() for p in student.parameters()]


def test_it_begins_as_a_copy_of_its_own() -> None:
    student = network()
    before = [p.detach().clone() for p in student.parameters()]
    teacher = Ema(student)
    moved(student, 1)
    for mine, old, new in zip(teacher.net.parameters(), before, student.parameters(), strict=True):
        assert torch.equal(mine, old)
        assert not torch.equal(mine, new)
        assert mine.data_ptr() != new.data_ptr()


def test_closed_form_of_several_updates() -> None:
    """After n updates: a^n of the beginning and (1 - a) a^(n - i) of the student at update i."""
    student = network().double()
    begin, a, n = [p.detach().clone() for p in student.parameters()], 0.9, 7
    teacher, students = Ema(student), []
    for i in range(n):
        students.append(moved(student, i))
        teacher.update(student, a)
    for j, mine in enumerate(teacher.net.parameters()):
        expected = a**n * begin[j] + sum((1 - a) * a ** (n - 1 - i) * students[i][j] for i in range(n))
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_of_the_momentum(momentum: float) -> None:
    student = network()
    teacher, begin = Ema(student), [p.detach().clone() for p in student.parameters()]
    now = moved(student, 3)
    teacher.update(student, momentum)
    for mine, expected in zip(teacher.net.parameters(), begin if momentum else now, strict=True):
        assert torch.equal(mine, expected)


def test_an_update_takes_nothing_from_the_student() -> None:
    student = network()
    teacher, now = Ema(student), moved(student, 3)
    teacher.update(student, 0.3)
    assert all(torch.equal(p, old) for p, old in zip(student.parameters(), now, strict=True))


def test_buffers_are_copied() -> None:
    student = network()
    teacher = Ema(student)
    student(torch.rand(16, 3) + 5)
    assert teacher.net[1].num_batches_tracked == 0
    teacher.update(student, 0.9)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(teacher.net[1], name), getattr(student[1], name)), name
        assert getattr(teacher.net[1], name).data_ptr() != getattr(student[1], name).data_ptr()


def test_another_network_is_refused() -> None:
    with pytest.raises(RuntimeError):
        Ema(nn.Linear(3, 4)).update(nn.Linear(3, 4, bias=False), 0.5)


def test_it_has_no_gradient_and_stays_in_eval_mode() -> None:
    method = nn.ModuleDict({"student": network(), "teacher": Ema(network())}).train()
    assert all(m.training for m in method["student"].modules())
    assert not any(m.training for m in method["teacher"].modules())
    assert not any(p.requires_grad for p in method["teacher"].parameters())
    assert all(p.requires_grad for p in method["student"].parameters())


def test_it_is_saved() -> None:
    student = network()
    teacher = Ema(student)
    moved(student, 1)
    teacher.update(student, 0.5)
    assert list(teacher.state_dict()) == [f"net.{name}" for name in student.state_dict()]
    other = Ema(network())
    other.load_state_dict(teacher.state_dict())
    x = torch.rand(2, 3)
    assert torch.equal(other.net(x), teacher.net(x))


def test_distance() -> None:
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 5.0])
    assert distance(other, other) == 0
    assert float(distance(one, other)) == pytest.approx(10**0.5 / 5)  # |(3, -1)| / |(0, 5)|
    assert float(distance(2 * other, other)) == pytest.approx(1)
    assert distance(torch.zeros(2), torch.zeros(2)) == 0
