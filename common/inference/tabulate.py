"""All images of folders into a table, with a bar on a terminal, and a line for each that cannot be read."""
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from tqdm import tqdm

from common.base.errors import printable
from common.evaluation.answers import top_answers
from common.inference.classify import classify_images
from common.inference.tables import TOP


class Done(NamedTuple):
    classified: int
    broken: int
    seconds: float

    def __str__(self) -> str:
        return (f"{self.classified} images in {self.seconds:.1f} s, {self.classified / self.seconds:.1f} images/s"
                + (f"; {self.broken} could not be read" if self.broken else ""))


def tabulate(images: Iterable, total: int, write: Callable, names: Sequence[str], bar: bool = True,
             **network: Any) -> Done:
    """Classify `images`, of which there are `total`, and `write(path, top, error)` each, as `answers_table` has it.

    `names`: of the classes. `network`: the further arguments of `classify_images`. `bar`: whether there is one where
    standard error is a terminal; not beside a table that is written to it.
    """
    counts = {"classified": 0, "broken": 0}
    start = time.perf_counter()
    with closing(classify_images(images, **network)) as answers, \
            tqdm(total=total, unit=" images", dynamic_ncols=True, disable=None if bar else True) as shown:
        for path, probabilities, error in answers:
            counts["classified" if error is None else "broken"] += 1
            if error is None:
                top = top_answers(probabilities, TOP)
                write(path, [(int(label), names[label], probabilities[label]) for label in top], None)
            else:
                tqdm.write(f"{printable(path)}: passed over: {error}", file=sys.stderr)
                write(path, [], error)
            shown.update()
    return Done(**counts, seconds=time.perf_counter() - start)
