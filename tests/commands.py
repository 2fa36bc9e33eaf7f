"""Commands as a user runs them, but in this process: to start Python and what it imports takes most of their time."""
import logging
import sys

import pytest

from common.base.errors import reported


def run(module, *arguments):
    """`main` of a command's module, with these arguments: of a script words, of a tool flags."""
    words = list(map(str, arguments))
    return module.main(words if "." not in module.__name__ else module.get_args_parser().parse_args(words))


def refusal(capsys, module, *arguments) -> str:
    """The line with which the command ends, and says no more."""
    capsys.readouterr()  # of those before
    program = f"{module.__name__.rpartition('.')[2]}.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program])
        patch.setattr(logging, "raiseExceptions", False)  # what logs for commands before has lost its standard error
        with pytest.raises(SystemExit) as ended, reported(program):
            run(module, *arguments)
    out, err = capsys.readouterr()
    assert ended.value.code in (1, 2) and not out and "Traceback" not in err, err
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"{program}: error: "), err
    return last
