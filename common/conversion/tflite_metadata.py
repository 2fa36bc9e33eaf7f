"""What a TensorFlow Lite file says of its input and output to MediaPipe's tasks, the Task Library and Android Studio:
the tables of tensorflow_lite_support's metadata/metadata_schema.fbs."""
import io
import re
import zipfile
from collections.abc import Sequence

import numpy as np

from common.conversion.tflite_build import PRODUCER, Table, written

ENTRY = "TFLITE_METADATA"  # name in the file
LABELS = "labels.txt"
# of unions and enumerations
IMAGE, FEATURES, NORMALIZATION, RGB, AXIS_LABELS = 2, 1, 1, 1, 2


def described(normalization: tuple[Sequence[float], Sequence[float]] | None, labels: bool) -> bytes:
    """The content of ENTRY. `normalization`: mean and standard deviation by which RGB from 0 to 255 becomes the input,
    of float32; `labels`: whether the file has them."""
    units = None
    if normalization:
        mean, std = (np.array(values, np.float32) for values in normalization)
        units = [Table("ProcessUnit", type=NORMALIZATION, options=Table("NormalizationOptions", mean=mean, std=std))]
    files = [Table("AssociatedFile", name=LABELS, type=AXIS_LABELS)] if labels else None
    image = Table("TensorMetadata", name="image", process_units=units, content=Table(
        "Content", type=IMAGE, properties=Table("ImageProperties", color_space=RGB)))
    probability = Table("TensorMetadata", name="probability", files=files, content=Table(
        "Content", type=FEATURES, properties=Table("FeatureProperties")))
    graph = Table("SubGraphMetadata", inputs=[image], outputs=[probability])
    return written(Table("ModelMetadata", name=PRODUCER, subgraphs=[graph], min_parser_version="1.0.0"), b"M001")


def with_labels(content: bytes, class_names: Sequence[str]) -> bytes:
    """A .tflite file with LABELS, without WordNet's numbers: in a zip archive behind it, uncompressed."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        lines = [re.sub(r"^n[0-9]{8}\s+", "", name) for name in class_names]
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{line}\n" for line in lines))
    return file.getvalue()
