"""The table of both quickstarts side by side; nothing is trained."""

from benchmarks.quickstart import report, summary


def points(*pq):
    return [
        {"iterations": 25 * i, "seconds": 30.0 * i, "PQ": x, "PQ things": x - 1, "PQ stuff": x + 1}
        for i, x in enumerate(pq, start=1)
    ]


def test_the_first_evaluation_that_reaches_the_target_counts():
    found = summary(points(60.0, 70.0, 80.0), 70)
    assert found["iterations to PQ 70"] == 50 and found["minutes to PQ 70"] == 1.0
    assert found["PQ at the end"] == 80.0 and found["minutes"] == 1.5
    assert summary(points(60.0), 70)["iterations to PQ 70"] is None


def test_mean_and_standard_deviation_over_the_seeds():
    runs = {"maskformer": [points(72.0), points(74.0)], "mask2former": [points(71.0), points(1.0)]}
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in report(runs, 70).splitlines()
    ]
    mask_former = ["73.0 ± 1.4", "72.0 ± 1.4", "74.0 ± 1.4", "25.0 ± 0.0"]
    assert ["maskformer", *mask_former] in [row[:5] for row in rows]
    assert ["mask2former", "not reached by all"] in [[*row[:1], *row[4:5]] for row in rows]
