"""What of this machine's processor this process may use."""
import os
from pathlib import Path


def usable_processors() -> int:
    """Processors as the kernel counts them: threads of cores, of which decoders of images use all."""
    return len(os.sched_getaffinity(0))


def usable_cores() -> int:
    """Cores: two threads of one core count once, for arithmetic that fills a core leaves nothing to a second."""
    siblings = {(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), cpu)
                for cpu in os.sched_getaffinity(0)}
    return len({path.read_text() if path.exists() else cpu for path, cpu in siblings})
