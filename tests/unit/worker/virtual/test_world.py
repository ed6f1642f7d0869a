"""Virtual time: events in their order, and programs that wait in it."""

import signal
import threading

import pytest

from leash.worker.virtual.world import BEGINS_S, World


def test_things_happen_in_the_order_of_their_time_and_then_of_asking() -> None:
    world, happened = World(), []
    world.at(5.0, lambda: happened.append("late"))
    world.at(2.0, lambda: happened.append("early"))
    world.at(2.0, lambda: happened.append("early, asked for later"))
    world.spawn("waits", lambda: None)
    fiber = world.spawn("waits longest", lambda: fiber.sleep(10.0))
    world.run()
    assert happened == ["early", "early, asked for later", "late"]
    assert world.now_s == BEGINS_S + 10.0


def test_what_is_asked_for_in_the_past_happens_now() -> None:
    world, times = World(), []

    def program() -> None:
        fiber.sleep(3.0)
        world.at(0.5, lambda: times.append(world.now_s))
        fiber.sleep(1.0)

    fiber = world.spawn("asks late", program)
    world.run()
    assert times == [BEGINS_S + 3.0]


def test_programs_sleep_beside_one_another_and_never_run_at_once() -> None:
    world, told = World(), []
    running: set[str] = set()

    def program(name: str, seconds: float) -> None:
        for _ in range(3):
            fibers[name].sleep(seconds)
            assert not running
            running.add(name)
            told.append((name, world.now_s - BEGINS_S))
            running.remove(name)

    fibers = {
        name: world.spawn(name, lambda name=name, s=seconds: program(name, s))  # type: ignore[misc]
        for name, seconds in (("fast", 1.0), ("slow", 2.5))
    }
    world.run()
    assert told == [
        ("fast", 1.0), ("fast", 2.0), ("slow", 2.5), ("fast", 3.0), ("slow", 5.0), ("slow", 7.5),
    ]  # fmt: skip


def test_a_program_goes_on_when_what_it_waits_for_is_so_and_not_before() -> None:
    world = World()
    answers: list[str] = []
    went_on = []

    def program() -> None:
        fiber.wait_until(lambda: len(answers) == 2)
        went_on.append(world.now_s)

    def answer() -> None:
        answers.append("an answer")
        fiber.wake()

    fiber = world.spawn("waits", program)
    for when_s in (2.0, 4.0, 6.0):
        world.at(when_s, answer)
    world.run()
    assert went_on == [4.0]


def test_a_wait_ends_at_its_latest_and_an_old_timer_ends_no_other_wait() -> None:
    world, ends = World(), []

    def program() -> None:
        fiber.wait_until(lambda: True, BEGINS_S + 100)
        fiber.wait_until(lambda: False, BEGINS_S + 2)
        ends.append(world.now_s - BEGINS_S)
        is_there = False
        world.at(BEGINS_S + 3, fiber.wake)
        fiber.wait_until(lambda: is_there, BEGINS_S + 7)
        ends.append(world.now_s - BEGINS_S)

    fiber = world.spawn("waits", program)
    world.run()
    assert ends == [2.0, 7.0]


def test_what_a_program_raises_ends_the_world_and_all_other_programs() -> None:
    world, cleaned_up = World(), []

    def fails() -> None:
        fiber.sleep(1.0)
        raise ValueError("of a program")

    def waits() -> None:
        try:
            other.wait_until(lambda: False)
        finally:
            cleaned_up.append("the other")
            other.sleep(1.0)  # nothing waits any more
            cleaned_up.append("never")

    fiber, other = world.spawn("fails", fails), world.spawn("waits", waits)
    threads = threading.active_count()
    with pytest.raises(ValueError, match="of a program"):
        world.run()
    assert cleaned_up == ["the other"]
    assert fiber.has_ended
    assert other.has_ended
    assert threading.active_count() == threads


def test_a_signal_ends_all_programs_the_running_one_where_it_next_waits() -> None:
    world, cleaned_up = World(), []

    def program(name: str) -> None:
        try:
            while True:
                fibers[name].sleep(1.0)
                if name == "second" and world.now_s > BEGINS_S + 5:
                    signal.pthread_kill(main, signal.SIGINT)
        finally:
            cleaned_up.append(name)

    main = threading.main_thread().ident
    assert main is not None
    fibers = {
        name: world.spawn(name, lambda name=name: program(name))  # type: ignore[misc]
        for name in ("first", "second", "third")
    }
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert sorted(cleaned_up) == ["first", "second", "third"]
    assert all(fiber.has_ended for fiber in fibers.values())


def test_a_world_in_which_nothing_will_happen_any_more_says_who_waits() -> None:
    world = World()
    fiber = world.spawn("worker 3", lambda: fiber.wait_until(lambda: False))
    with pytest.raises(RuntimeError, match="worker 3"):
        world.run()
