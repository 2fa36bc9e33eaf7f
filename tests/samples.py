"""Whether samples are of one distribution, by Kolmogorov and Smirnov's test.

A seed makes each comparison come out alike every time; who draws in another order meets other samples, and must not
fail by chance: of all comparisons together, one in a million is called different though it is not.
"""
import numpy as np
import scipy.stats

COMPARISONS = 128  # that the tests make, at most
LEVEL = 1e-6 / COMPARISONS


def are_alike(one, other) -> bool:
    """Two samples. Of 1000 and 3000 values, whose distribution functions may then differ by 0.11."""
    return scipy.stats.ks_2samp(one, other, method="asymp").pvalue > LEVEL


def is_uniform(sample, least, most) -> bool:
    """Between these; the ends are met to where all but one sample in a hundred million come."""
    near = (most - least) * -np.log(1e-8) / len(sample)
    ends = least <= min(sample) < least + near and most - near < max(sample) <= most
    return ends and scipy.stats.kstest(sample, "uniform", (least, most - least)).pvalue > LEVEL
