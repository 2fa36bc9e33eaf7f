"""Which files of tuning records a network may be compiled with."""
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "tuning"
AUTO = "auto"


def record_files(records: str | Path | None) -> list:
    """Those that may decide how it is compiled: all of tuning/ for AUTO, a file, or none (None)."""
    return [] if records is None else sorted(FOLDER.glob("*.json")) if records == AUTO else [records]
