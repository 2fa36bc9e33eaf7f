"""What the tests of the published weights share."""
import pytest

from common.zoo import files
from tests.http_server import Server, serving

CLASSES, SIZE = 10, 64
CONTENT = b'\x10\0\0\0\0\0\0\0{"' + bytes(100_000)  # begins as .safetensors does


@pytest.fixture(autouse=True)
def away_from_home(tmp_path, monkeypatch):
    """No proxy, and no folder but the test's own."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(files, "MODELS", tmp_path / "models")
    monkeypatch.setenv("MOBILENETV2_MODELS", str(tmp_path / "cache"))


@pytest.fixture
def server():
    with serving(Server(CONTENT)) as running:
        yield running


def manifest_of(folder, url, file, layout="mxnet", **fields):
    """A manifest with one entry, "x"."""
    fields = {"network": {"multiplier": 0.35}, "classes": CLASSES, **fields}

    def toml(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
        return f'"{value}"' if isinstance(value, str) else str(value)
    path = folder / "zoo.toml"
    path.write_text(f'''
        preprocessing.p = {{resize = 72, crop = 64, mean = [1, 2, 3], std = [4, 5, 6]}}
        [weights.x]
        file = "{file}"
        urls = ["{url}"]
        layout = "{layout}"
        preprocessing = "p"
        licence = "MIT"
        accuracy = {{top1 = 50.0, top5 = 60.0, kind = "author"}}
        sources = ["here"]
        unverified = []
        ''' + "\n".join(f"{key} = {toml(value)}" for key, value in fields.items()))
    return path
