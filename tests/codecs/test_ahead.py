"""Results that are computed ahead on threads."""

import threading

import pytest
import torch

from flowportrait.codecs.ahead import computed_ahead

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_few_are_ahead(threads):
    begun = []

    def squared(number):
        begun.append(number)
        return number**2

    results = computed_ahead(squared, range(20), CPU)
    for number in range(20):
        assert next(results) == number**2
        assert max(begun) <= number + threads
    assert next(results, None) is None


def test_modes_of_the_caller_hold_and_the_number_of_threads_stays(threads):
    modes = lambda _: (  # noqa: E731
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert list(computed_ahead(modes, range(5), CPU)) == [(True, True, 1)] * 5
    assert torch.get_num_threads() == threads
    seen = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [threads], "threads that begin later compute with as many as before"


def test_a_fault_comes_at_its_place_and_leaves_no_thread_behind(threads):
    before = threading.active_count()
    results = computed_ahead(lambda number: 1 / (3 - number), range(10), CPU)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    results = computed_ahead(abs, range(10), CPU)
    next(results)
    results.close()
    assert threading.active_count() == before
