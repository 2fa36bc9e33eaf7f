"""When a log is told something, by a clock that the test turns."""
import logging
import re
from itertools import pairwise

import pytest

from common.evaluation.score import Score
from common.training.report import Report

BATCH = 10  # images


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines(caplog):
    """`run(seconds of a batch, every, batches of an epoch, epochs)` -> [(second, line)] of such a run's log."""
    def run(seconds, every, batches, epochs=1, first=0):
        clock, told = Clock(), []
        total = epochs * batches * BATCH
        with caplog.at_level(logging.INFO), Report(every, 0, lambda epoch, batch: total - (epoch * batches + batch)
                                                   * BATCH, clock=clock) as report:
            def collect():
                told.extend((clock.now, record.getMessage()) for record in caplog.records)
                caplog.clear()
            for epoch in range(epochs):
                report.begin_epoch(epoch, epochs, first, batches, BATCH)
                for batch in range(first, batches):
                    clock.now += seconds
                    report.batch(Score(BATCH, 5, 5, 10.0), 0.1, batch)
                    collect()
                report.end_epoch(0.1, 0.1, batches)
                collect()
        return told
    return run


def parts(told):
    """[(second, first batch, end, speed, time left)] of the lines about batches."""
    found = [(second, re.match(r"Epoch\[\d+\] Batch \[(\d+)-(\d+)\]\tSpeed: (\S+) .*left=(\S+)$", line))
             for second, line in told]
    return [(second, int(match[1]), int(match[2]), float(match[3]), match[4]) for second, match in found if match]


def test_after_so_many_batches_where_they_are_quick(lines):
    assert parts(lines(1, 20, 45)) == [(20, 0, 20, 10, "00:25"), (40, 20, 40, 10, "00:05")]


def test_after_half_a_minute_where_they_are_slow(lines):
    told = parts(lines(7, 20, 45))
    assert [end - begin for _, begin, end, *_ in told] == [5] * 9
    assert told[0] == (35, 0, 5, 1.43, "04:40")
    assert all(later - earlier <= 30 + 7 for earlier, later in pairwise([0, *(second for second, *_ in told)]))


def test_an_epoch_that_is_shorter_tells_the_time_left_too(lines):
    told = lines(2, 100, 4, epochs=3)
    assert parts(told) == [(8, 0, 4, 5, "00:16"), (16, 0, 4, 5, "00:08"), (24, 0, 4, 5, "00:00")]
    assert [line for _, line in told if line.startswith("Estimated")] == [
        "Estimated: 00:16 to train, at the 5 images/s of the first 4 batches"]
    assert parts(lines(2, 100, 4, first=3)) == [(2, 3, 4, 5, "00:00")]  # what is left of one, in a run that goes on


def test_validation_that_takes_long_tells_how_far_it_is(caplog):
    clock = Clock()
    with caplog.at_level(logging.INFO), Report(20, 0, lambda *_: 0, clock=clock) as report:
        on_batch = report.validating(3, 1000)
        for _ in range(10):
            clock.now += 20
            on_batch(range(100), None, None)
    assert [record.getMessage() for record in caplog.records][:2] == [
        "Epoch[3] Validation [200]\tSpeed: 5.00 samples/sec\tleft=02:40",
        "Epoch[3] Validation [400]\tSpeed: 5.00 samples/sec\tleft=02:00"]
    assert len(caplog.records) == 5
