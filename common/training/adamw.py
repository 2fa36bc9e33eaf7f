"""AdamW: MXNet 1.9.1 has its operator, but no optimizer that calls it."""
import math

import numpy as np

from common.find_mxnet import mx


@mx.optimizer.register
class AdamW(mx.optimizer.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as torch.optim.AdamW computes it: of the rescaled
    gradient g, at update t,

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        w = (1 - lr wd) w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    The state of a weight is (m, v), which are float32 for float16 weights too.
    """

    def __init__(self, learning_rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
                 **options: object) -> None:
        super().__init__(learning_rate=learning_rate, **options)
        # as the operator has them: what corrects the bias of m and v is to be of the same numbers
        self._beta1, self._beta2 = float(np.float32(beta1)), float(np.float32(beta2))
        self._epsilon = epsilon

    def create_state(self, index: int, weight: mx.nd.NDArray) -> tuple:
        return mx.nd.zeros_like(weight), mx.nd.zeros_like(weight)

    def update(self, index: int, weight: mx.nd.NDArray, grad: mx.nd.NDArray, state: tuple) -> None:
        self._update_count(index)
        lr, updates = self._get_lr(index), self._index_update_count[index]
        root = math.sqrt(1 - self._beta2 ** updates)
        mx.nd.contrib.adamw_update(weight, grad, *state, out=weight, rescale_grad=self.rescale_grad, eta=1,
                                   lr=lr * root / (1 - self._beta1 ** updates), wd=lr * self._get_wd(index),
                                   beta1=self._beta1, beta2=self._beta2, epsilon=self._epsilon * root,
                                   clip_gradient=self.clip_gradient or -1)
