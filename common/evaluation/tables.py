"""What an evaluation writes as CSV: the answers to each image, and the accuracies of each class."""
import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.base.files import written_atomically
from common.evaluation.answers import top_answers
from common.evaluation.score import Score, count


@contextmanager
def predictions_table(path: str | Path, num_classes: int, top_k: int, names: Sequence[str] | None = None,
                      files: Sequence[str] | None = None) -> Iterator[Callable]:
    """An `on_batch` of `score` that writes a CSV row for each image; the file appears when this block ends in order.

    The columns are record, label, top-1, p-1, ..., top-k, p-k (classes and their probabilities); with `files`, the name
    of each record's, file too, and with `names` of the classes label-name and name-1 to name-k. Raises InputError or
    OSError at once if it cannot be written.
    """
    columns = [f"{column}-{rank}" for rank in range(1, top_k + 1) for column in ("top", "name", "p")]
    with _table(path, ["record", *["file"] * bool(files), "label", "label-name", *columns], names) as write:
        names = names or [""] * num_classes

        def on_batch(records, labels, probabilities, *_):
            for record, label, p, answers in zip(records, labels, probabilities, top_answers(probabilities, top_k)):
                row = {"record": record, "file": files and files[record], "label": label, "label-name": names[label]}
                for rank, answer in enumerate(answers, start=1):
                    row |= {f"top-{rank}": answer, f"name-{rank}": names[answer], f"p-{rank}": f"{p[answer]:.6g}"}
                write(row)
        yield on_batch


@contextmanager
def classes_table(path: str | Path, num_classes: int, top_k: int,
                  names: Sequence[str] | None = None) -> Iterator[Callable]:
    """An `on_batch` of `score` that counts, and writes a CSV row for each class when this block ends in order.

    The columns are class, images, top-1 and top-k (0 to 1; empty for a class without images), wrong-answer (the most
    frequent one, among equals the smallest number) and times; with `names`, name and wrong-name too. Raises as
    `predictions_table` does.
    """
    scores, wrong = [Score()] * num_classes, [Counter() for _ in range(num_classes)]

    def on_batch(_, labels, probabilities, *__):
        for label, answer, p in zip(labels, top_answers(probabilities, 1)[:, 0], probabilities):
            scores[label] += count(p[np.newaxis], label[np.newaxis], top_k)
            wrong[label].update([answer] if answer != label else [])

    columns = ["class", "name", "images", "top-1", f"top-{top_k}", "wrong-answer", "wrong-name", "times"]
    with _table(path, columns, names) as write:
        yield on_batch
        names = names or [""] * num_classes
        for label, (total, answers) in enumerate(zip(scores, wrong)):
            row = {"class": label, "name": names[label], "images": total.images}
            if total.images:
                row |= {"top-1": f"{total.top_1:.6f}", f"top-{top_k}": f"{total.top_k:.6f}"}
            if answers:
                answer, times = min(answers.items(), key=lambda item: (-item[1], item[0]))
                row |= {"wrong-answer": answer, "wrong-name": names[answer], "times": times}
            write(row)


@contextmanager
def _table(path, columns, names):
    """A function that writes a row, given as a dict, to a CSV file. Columns of names are left out if there are none."""
    with written_atomically(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column for column in dict.fromkeys(columns) if names or "name" not in column],
                                extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        yield writer.writerow
