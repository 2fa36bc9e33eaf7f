"""What people see of training: a bar on a terminal, lines elsewhere, PREFIX-metrics.jsonl, TensorBoard events."""
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from common.base.errors import InputError
from common.base.files import named_in_errors
from common.evaluation.score import Score

QUIET = 30.0  # seconds after which a log is told something


@dataclass
class Part:
    """Some batches: when they began, from batch number `first` on, their score, and the seconds waited for data."""
    began: float
    first: int = 0
    score: Score = Score()
    waited: float = 0.0


@dataclass
class Epoch:
    """An epoch so far: the number of its next batch, its score, and the seconds that its finished parts took and waited
    for data; `images`: in a batch of all workers; `told`: whether there was a line about a part of it."""
    number: int = 0
    batch: int = 0
    batches: int = 0
    images: int = 0
    score: Score = Score()
    seconds: float = 0.0
    waited: float = 0.0
    told: bool = False


class Report:
    """Collects the scores of batches, and tells of them every `every` batches or QUIET seconds, whichever comes first,
    at the end of an epoch if it is shorter, and of each epoch.

    `images_left(epoch, batch)`: images of the run still to come. `top_k`: of the second accuracy, or 0. The lines are
    those of MXNet's Speedometer and Module.fit. `measured`: {"train": {...}, "validation": {...}} of the last epoch.
    `clock()`: seconds.
    """

    def __init__(self, every: int, top_k: int, images_left: Callable[[int, int], int], metrics_file: Path | None = None,
                 append: bool = False, tensorboard: str | Path | None = None, updates: int = 0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._top_k, self._images_left, self._clock = every, top_k, images_left, clock
        self._terminal, self._bar = sys.stderr.isatty(), None
        self._events = _open_events(tensorboard, updates) if tensorboard else None
        self._file = _open_metrics(metrics_file, append) if metrics_file else None
        self._estimated = False
        self._epoch, self._part = Epoch(), Part(clock())
        self.measured: dict[str, dict] = {"train": {}, "validation": {}}

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()
        if self._file:
            with named_in_errors(self._file.name):
                self._file.close()
        if self._events:
            self._events.close()

    def event(self, kind: str, **values: object) -> None:
        """A line of PREFIX-metrics.jsonl."""
        if self._file:
            with named_in_errors(self._file.name):
                self._file.write(json.dumps({"event": kind, **values}) + "\n")

    def begin_run(self, epoch: int, batch: int, **values: object) -> None:
        self.event("start", epoch=epoch, batch=batch, time=datetime.now().isoformat(timespec="seconds"), **values)

    def begin_epoch(self, epoch: int, epochs: int, batch: int, batches: int, images: int,
                    progress: tuple | None = None) -> None:
        """`images`: in a batch of all workers; `progress`: as below, of the batches of this epoch done before."""
        score, seconds, waited = progress or ((), 0.0, 0.0)
        self._epoch = Epoch(epoch, batch, batches, images, Score(*score), seconds, waited)
        self._part = Part(self._clock(), batch)
        if self._terminal:
            self._close_bar()
            self._bar = tqdm(total=batches, initial=batch, unit="batch", leave=False, dynamic_ncols=True,
                             desc=f"epoch {epoch + 1}/{epochs}",
                             bar_format="{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}")

    @property
    def progress(self) -> tuple:
        """(score, seconds, seconds waited for data) of this epoch so far, for a checkpoint."""
        epoch, part = self._epoch, self._part
        return astuple(epoch.score), epoch.seconds + self._clock() - part.began, epoch.waited + part.waited

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within this block training waits for data."""
        began = self._clock()
        yield
        self._part.waited += self._clock() - began

    def batch(self, score: Score, lr: float, updates: int) -> None:
        """A batch was trained on at rate `lr`, the update of number `updates` of the run."""
        self._epoch.batch += 1
        self._epoch.score += score
        self._part.score += score
        if self._bar:
            self._bar.set_postfix_str(self._short(lr), refresh=False)
            self._bar.update()
        epoch, part = self._epoch, self._part
        if (epoch.batch - part.first >= self._every or self._clock() - part.began >= QUIET
                or epoch.batch == epoch.batches and not epoch.told):
            self._tell_part(lr, updates)

    def end_epoch(self, lr: float, lr_end: float, updates: int) -> None:
        """`lr`: the rate of the last update; `lr_end`: the one after the decay that ends the epoch."""
        self._end_part()
        self._close_bar()
        epoch = self._epoch
        values = {"loss": epoch.score.mean_loss, **self._accuracies(epoch.score)}
        for name, value in self._named(epoch.score):
            logging.info("Epoch[%d] Train-%s=%f", epoch.number, name, value)
        logging.info("Epoch[%d] Learning-rate=%.7g", epoch.number, lr_end)
        logging.info("Epoch[%d] Time cost=%.3f", epoch.number, epoch.seconds)
        speed = epoch.batches * epoch.images / epoch.seconds
        self.event("epoch", epoch=epoch.number, batches=epoch.batches, **values, lr=lr, lr_end=lr_end,
                   images_per_s=round(speed, 2), data_wait=round(epoch.waited / epoch.seconds, 4),
                   seconds=round(epoch.seconds, 3))
        self.measured["train"] = {**values, "images_per_s": speed}
        self._scalars("train", self.measured["train"], updates)

    def validating(self, epoch: int, images: int | None) -> Callable:
        """An `on_batch` of common.evaluation.score.score that tells how far it is; `images`: all there are, if that is
        known."""
        began = told = self._clock()
        done = 0

        def on_batch(records, *_):
            nonlocal told, done
            done += len(records)
            if (now := self._clock()) - told >= QUIET:
                told, speed = now, done / (now - began)
                left = f"\tleft={tqdm.format_interval((images - done) / speed)}" if images else ""
                logging.info("Epoch[%d] Validation [%d]\tSpeed: %.2f samples/sec%s", epoch, done, speed, left)
        return on_batch

    def validation(self, epoch: int, scores: dict, updates: int) -> None:
        """`scores`: {"": Score} and {"ema-": Score} if there is an average."""
        values = {}
        for prefix, score in scores.items():
            for name, value in self._named(score):
                logging.info("Epoch[%d] Validation-%s%s=%f", epoch, prefix, name, value)
            values.update({f"{prefix}loss": score.mean_loss,
                           **{f"{prefix}{name}": value for name, value in self._accuracies(score).items()}})
        logging.info("Epoch[%d] Validation-images=%d", epoch, scores[""].images)
        if scores[""].skipped:
            logging.info("Epoch[%d] Validation-skipped=%d", epoch, scores[""].skipped)
        self.event("validation", epoch=epoch, **values, images=scores[""].images)
        self.measured["validation"] = values
        self._scalars("validation", values, updates)

    def _tell_part(self, lr, updates):
        epoch, part = self._epoch, self._part
        epoch.told = True
        seconds = self._end_part()
        speed = (epoch.batch - part.first) * epoch.images / seconds
        left = self._images_left(epoch.number, epoch.batch) / speed
        if not self._terminal:
            logging.info("Epoch[%d] Batch [%d-%d]\tSpeed: %.2f samples/sec\t%s\tlr=%.6g\tdata-wait=%.0f%%\tleft=%s",
                         epoch.number, part.first, epoch.batch, speed,
                         "\t".join(f"{name}={value:f}" for name, value in self._named(part.score)), lr,
                         100 * part.waited / seconds, tqdm.format_interval(left))
        if not self._estimated:
            self._estimated = True
            logging.info("Estimated: %s to train, at the %.0f images/s of the first %d batches",
                         tqdm.format_interval(left), speed, epoch.batch - part.first)
        values = {"loss": part.score.mean_loss, **self._accuracies(part.score), "images_per_s": round(speed, 2),
                  "data_wait": round(part.waited / seconds, 4), "lr": lr}
        self.event("batches", epoch=epoch.number, batch=epoch.batch, batches=epoch.batches, **values)
        self._scalars("batch", values, updates)

    def _end_part(self):
        """Seconds since the last such, which are added to those of the epoch."""
        now = self._clock()
        seconds = max(now - self._part.began, 1e-9)
        self._epoch.seconds += seconds
        self._epoch.waited += self._part.waited
        self._part = Part(now, self._epoch.batch)
        return seconds

    def _short(self, lr):
        epoch, part, (_, seconds, waited) = self._epoch, self._part, self.progress
        speed = (epoch.batch - part.first) * epoch.images / max(self._clock() - part.began, 1e-9)
        left = self._images_left(epoch.number, epoch.batch) / speed
        return (f"loss {epoch.score.mean_loss:.3f} top-1 {epoch.score.top_1:.3f} {speed:.0f} images/s "
                f"data {100 * waited / seconds:.0f}% lr {lr:.3g} {tqdm.format_interval(left)} left")

    def _named(self, score):
        """MXNet's names of the metrics."""
        yield "accuracy", score.top_1
        if self._top_k > 1:
            yield f"top_k_accuracy_{self._top_k}", score.top_k
        yield "cross-entropy", score.mean_loss

    def _accuracies(self, score):
        return {"top-1": score.top_1, **({f"top-{self._top_k}": score.top_k} if self._top_k > 1 else {})}

    def _scalars(self, group, values, updates):
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, updates)

    def _close_bar(self):
        if self._bar:
            self._bar.close()
            self._bar = None


def _open_metrics(path, append):
    """A line-buffered file; a line that a killed process cut short is ended."""
    if append and os.path.exists(path):
        with open(path, "rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n":
                file.write(b"\n")
    return open(path, "a" if append else "w", buffering=1, encoding="utf-8")


def _open_events(folder, updates):
    from tensorboardX import SummaryWriter
    try:
        return SummaryWriter(folder, purge_step=updates + 1)
    except OSError as error:
        raise InputError(f"--tensorboard {folder}: {error.strerror}") from None
