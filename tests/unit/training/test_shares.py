import pytest
import torch
from torch import nn

from distildet.ops.processes import rank
from distildet.training.shares import average_step, refuse_differences, start_equal, whole_batch


def small_network():
    """Two weights and a BatchNorm of one channel, other numbers in each process."""
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    network[1].running_mean.fill_(2.0 + 4 * rank())
    network[1].running_var.fill_(1.0 + 2 * rank())
    for parameter in network.parameters():
        parameter.data.fill_(rank())
    return network


def test_all_start_with_the_state_of_rank_0(in_processes):
    def work():
        network = small_network()
        start_equal(network)
        return {name: value.tolist() for name, value in network.state_dict().items()}

    first, second = in_processes(work)

    assert first == second
    assert second["0.weight"] == [[0.0]]
    assert second["1.running_mean"] == [2.0]


def test_gradients_and_values_become_their_means(in_processes):
    # Process 0 has gradient 1 and value 10, process 1 has 4 and 20.
    def work():
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor([1.0, -1.0]) * (1 + 3 * rank())
        values = average_step(nn.Module(), [weight], {"loss": torch.tensor(10.0 + 10 * rank())})
        return weight.grad.tolist(), values["loss"].item()

    assert in_processes(work) == [([2.5, -2.5], 15.0)] * 2


def test_a_gradient_that_one_process_lacks_counts_as_zero(in_processes):
    def work():
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.tensor([6.0]) if rank() == 1 else None
        average_step(nn.Module(), [weight], {})
        return weight.grad.tolist()

    assert in_processes(work) == [[3.0]] * 2


def test_a_gradient_that_no_process_has_stays_away(in_processes):
    def work():
        seen, unseen = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        seen.grad = torch.ones(1)
        average_step(nn.Module(), [unseen, seen], {})
        return unseen.grad is None, seen.grad.tolist()

    assert in_processes(work) == [(True, [1.0])] * 2


def test_a_value_that_is_not_finite_in_one_process_is_so_in_all(in_processes):
    def work():
        weight = nn.Parameter(torch.zeros(1))
        value = torch.tensor(float("nan") if rank() == 1 else 1.0)
        return str(average_step(nn.Module(), [weight], {"loss": value})["loss"].item())

    assert in_processes(work) == ["nan", "nan"]


def test_gradients_keep_the_memory_layout_of_their_parameters(in_processes):
    def work():
        conv = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        values = torch.arange(48.0).reshape(4, 3, 2, 2)
        conv.weight.grad = values.to(memory_format=torch.channels_last) * (1 + rank())
        average_step(nn.Module(), [conv.weight], {})
        grad = conv.weight.grad
        return grad.is_contiguous(memory_format=torch.channels_last), bool(
            (grad / 1.5 == values).all()
        )

    assert in_processes(work) == [(True, True)] * 2


@pytest.mark.parametrize(("training", "statistics"), [(True, (4.0, 2.0)), (False, (2.0, 1.0))])
def test_statistics_of_batch_norm_become_their_means_while_it_trains(
    in_processes, training, statistics
):
    # Means 2 and 6, variances 1 and 3; in eval mode nothing changes.
    def work():
        network = small_network().train(training)
        average_step(network, list(network.parameters()), {})
        return network[1].running_mean.item(), network[1].running_var.item()

    assert in_processes(work)[0] == statistics


def test_one_process_keeps_its_gradients(student):
    weight = nn.Parameter(torch.zeros(1))

    values = average_step(nn.Module(), [weight], {"loss": torch.tensor(2.0)})

    assert values == {"loss": 2.0}
    assert weight.grad is None


def test_processes_that_came_apart_are_refused(in_processes):
    def work():
        refuse_differences({"same": torch.zeros(3)}, "stage")
        refuse_differences({"same": torch.zeros(3), "other": torch.tensor(rank())}, "stage")

    first, second = in_processes(work)

    assert "stage: the weights of process 1 differ from those of process 0" in str(first)
    assert str(first) == str(second)


def test_the_whole_batch_has_the_order_of_one_process(in_processes, batch_of, share_of):
    whole, targets = batch_of(0)

    def work():
        batch, all_targets = whole_batch(*share_of(0))
        return (
            batch.image_ids,
            batch.pixels.equal(whole.pixels),
            [one.boxes.tolist() for one in all_targets],
        )

    expected = (whole.image_ids, True, [one.boxes.tolist() for one in targets])
    assert in_processes(work) == [expected] * 2


def test_the_whole_batch_of_one_process_is_its_own(batch_of):
    batch, targets = batch_of(0)

    whole, all_targets = whole_batch(batch, targets)

    assert whole is batch
    assert all_targets == targets
