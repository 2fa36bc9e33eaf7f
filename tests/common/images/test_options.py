"""The flags that say how images are prepared."""
from argparse import ArgumentTypeError

import pytest

from common.images.options import image_shape


def test_image_shapes():
    assert image_shape("3,224,160") == (3, 224, 160)
    for text in ("", "3,224", "３,224,224", "3,x,1", "1,224,224", "3,0,224"):
        with pytest.raises(ArgumentTypeError, match="give 3,height,width as in 3,224,224"):
            image_shape(text)
