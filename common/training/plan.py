"""A recipe laid out over the images there are: batches, updates and learning rates of every epoch."""
from common.data.iterators import TrainingSet, batches_in_epoch
from common.errors import InputError
from common.training.learning_rate import make_scheduler
from common.training.recipe import Recipe


class Plan:
    """`batches`: those of an epoch for one worker, for each stage. `scheduler`: the learning rate of each update, for
    which an epoch has `num_examples` images (default: those there are), as in MXNet's image-classification examples.

    Raises InputError where recipe and images do not fit.
    """

    def __init__(self, recipe: Recipe, images: TrainingSet, workers: int = 1, num_examples: int | None = None) -> None:
        self.recipe, self.images, self.workers = recipe, images, workers
        sizes = [stage["batch_size"] for stage in recipe.stages]
        if images.examples < max(sizes) * workers:
            raise InputError(f"--batch-size {max(sizes)} is more than the {images.examples} training images"
                             + (f" over {workers} workers" if workers > 1 else "")
                             + f"; give {images.examples // workers} at most")
        self.batches, scheduled = ([batches_in_epoch(count, size, workers) for size in sizes]
                                   for count in (images.examples, num_examples or images.examples))
        self.scheduler = make_scheduler(recipe, scheduled, workers, self.batches)

    def global_batch(self, stage: int) -> int:
        """Images in a batch of all workers."""
        return self.recipe.stages[stage]["batch_size"] * self.workers

    def updates_before(self, epoch: int, batch: int) -> int:
        """Updates of the run before this batch of this epoch, both counted from 0."""
        return sum(batches * epochs for batches, epochs in zip(self.batches, self._epochs(0, epoch))) + batch

    def images_left(self, epoch: int, batch: int) -> int:
        """Images of all workers from there to the end of the run."""
        left = sum(batches * epochs * self.global_batch(stage) for stage, (batches, epochs)
                   in enumerate(zip(self.batches, self._epochs(epoch, self.recipe.epochs))))
        return left - batch * self.global_batch(self.recipe.stage_of(epoch))

    def lr_end(self, epoch: int) -> float:
        """The rate after the decay that ends an epoch. The scheduler only goes forward."""
        stage = self.recipe.stage_of(epoch)
        return self.scheduler.after(stage, (epoch - self.recipe.first_epoch(stage) + 1) * self.batches[stage])

    def _epochs(self, begin, end):
        """How many epochs from `begin` to `end` belong to each stage."""
        for i, stage in enumerate(self.recipe.stages):
            first = self.recipe.first_epoch(i)
            yield max(0, min(end, first + stage["epochs"]) - max(begin, first))
