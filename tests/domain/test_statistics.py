"""What is counted of a model, and what is made of the counts."""

from __future__ import annotations

import pytest

from inference_engine.domain.statistics import ModelStatistics, Spent

MS = 1_000_000


def test_each_request_of_a_batch_counts_its_whole_time() -> None:
    counts = ModelStatistics()
    counts.batch(3, 4, queued_s=0.006, total_s=0.010, compute_s=0.007, output_s=0.001, now_s=5.0)
    counts.batch(1, 1, queued_s=0.0, total_s=0.001, compute_s=0.002, output_s=0.0, now_s=6.0)
    assert (counts.inferences, counts.executions, counts.last_used_s) == (5, 2, 6.0)
    assert counts.queue == Spent(4, 6 * MS)
    for spent, expected in ((counts.compute_infer, 23), (counts.compute_output, 3), (counts.compute_input, 6)):
        assert spent.count == 4
        assert spent.ns == pytest.approx(expected * MS, abs=2)
    assert sorted(counts.batches) == [1, 4]
    assert counts.batches[4].compute_infer == Spent(1, 7 * MS)


def test_requests() -> None:
    counts = ModelStatistics()
    counts.request(True, 0.5)
    counts.request(False, 0.25)
    assert counts.success == Spent(1, 500 * MS)
    assert counts.fail == Spent(1, 250 * MS)


def test_sizes_are_bounded() -> None:
    counts = ModelStatistics()
    for rows in range(1, 5001):
        counts.batch(1, rows, 0.0, 0.0, 0.0, 0.0, 1.0)
    assert len(counts.batches) == 1025
    assert counts.executions == 5000
    assert counts.inferences == 5000 * 5001 // 2
