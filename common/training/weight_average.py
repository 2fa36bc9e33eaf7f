"""An exponential moving average of the weights, which often scores better than the weights themselves."""
from common.find_mxnet import mx


class WeightAverage:
    """average <- d average + (1 - d) weights after each update, BatchNorm's moving mean and variance included.

    d = min(`decay`, (1 + n) / (10 + n)) after n updates, so that the first weights are soon forgotten (as in
    tf.train.ExponentialMovingAverage with num_updates). `arrays`: {name: float32 NDArray}, which are copied.
    """

    def __init__(self, decay: float, arrays: dict) -> None:
        self._decay = decay
        self.arrays = {name: array.copy() for name, array in arrays.items()}

    def update(self, weights: dict, updates: int) -> None:
        """`weights` after so many updates of the run."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        for name, average in self.arrays.items():
            average *= decay
            average += (1 - decay) * weights[name]

    def params(self, arg_params: dict, aux_params: dict) -> tuple:
        """The average as (arg_params, aux_params), with the names of these."""
        return tuple({name: self.arrays[name].as_in_context(mx.cpu()) for name in params}
                     for params in (arg_params, aux_params))
