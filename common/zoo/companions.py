"""What a checkpoint of MXNet's has beside its weights: its network and what it wants done to images."""
import json
from pathlib import Path

from common.files import written_atomically
from common.params_file import checkpoint_files
from common.preprocessing_file import preprocessing_file, save_preprocessing
from common.zoo.manifest import FIRST_EPOCH, Entry
from symbols.mobilenetv2_json import get_graph


def complete(entry: Entry, path: Path) -> None:
    """Write PREFIX-symbol.json and PREFIX-preprocess.json, as the manifest has them, beside the weights `path` of an
    entry in MXNet's layout; only what is not there already. Raises OSError where they cannot be written."""
    if entry.layout != "mxnet":
        return
    prefix = str(path).removesuffix(FIRST_EPOCH)
    symbol_file, _ = checkpoint_files(prefix, 0)
    if not Path(symbol_file).exists():
        with written_atomically(symbol_file) as partial:
            graph = get_graph(entry.classes, **entry.network)
            Path(partial).write_text(json.dumps(graph, indent=2) + "\n", encoding="utf-8")
    if not Path(preprocessing_file(prefix)).exists():
        save_preprocessing(prefix, entry.preprocessing)
