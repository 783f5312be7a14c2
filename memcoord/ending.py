"""How the command ends: every error becomes one line on stderr and an exit code.

Owns: ``carry_out``, in which a verb runs, and the exit codes: 0 done, 1 failed, 2 the caller's
mistake (option, scenario, policy), 130 interrupted.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord.commands import EXIT_FAILED

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
#: Of an OSError: a disk, a quota or a limit of the process has no room for what is written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LINE_CHARACTERS_MAX, UNEXPECTED_CHARACTERS_MAX = 600, 300


def carry_out(command: Callable[[], object]) -> NoReturn:
    """Run ``command`` and exit; it may raise SystemExit with a code of its own."""
    open_missing_files()
    try:
        from memcoord.commands.packages import check_packages

        check_packages()
        command()
    except SystemExit as end:
        _end(end.code)
    except KeyboardInterrupt:
        _end(EXIT_INTERRUPTED)
    except MemcoordError as error:
        _fail(error, EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)
    except UnicodeEncodeError as error:
        _fail(f"{error.object!a} is not UTF-8: choose another name", EXIT_USAGE)
    except (OSError, MemoryError) as error:  # the machine's limit, not a defect of ours
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        advice = "; make room, or choose another directory" if full else ""
        _fail(f"the system refused: {error or 'out of memory'}{advice}", EXIT_FAILED)
    except Exception as error:
        if isinstance(error, ValueError) and _is_policy_error(error):
            _fail(error, EXIT_USAGE)
        what = f"unexpected {type(error).__name__}: {error}"
        _fail(f"{what[:UNEXPECTED_CHARACTERS_MAX]}; {_keep_trace()}", EXIT_FAILED)
    _end(0)


def open_missing_files() -> None:
    """/dev/null for a standard file that the caller closed: another file would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _fail(error: Exception | str, code: int) -> NoReturn:
    line = " ".join(str(error).split())
    if len(line) > LINE_CHARACTERS_MAX:  # it quotes what the user wrote, which may be of any length
        line = f"{line[:LINE_CHARACTERS_MAX]} ..."
    _tell(f"memcoord: {line}")
    _end(code)


def _end(code: int | str | None) -> NoReturn:
    """Exit; where the output cannot be written, say so in one line, as the interpreter would not.

    A reader that closed its pipe has seen enough: that is told by the exit code alone.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code:
            code = EXIT_FAILED
            if not isinstance(error, BrokenPipeError):
                _tell(f"memcoord: the output cannot be written: {error.strerror}")
    sys.exit(code)


def _keep_trace() -> str:
    """Write the whole trace of the exception being handled to a file; where it is."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="memcoord-trace-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file:
            file.write(f"{sys.argv!a}\n{traceback.format_exc()}")
    except OSError as error:
        return f"its trace cannot be written: {error.strerror}"
    return f"please report it with the trace in {file.name}"


def _is_policy_error(error: ValueError) -> bool:
    # Looked up, not imported: the module that raised it has imported it, and numpy with it.
    base = sys.modules.get("policies.base")
    return base is not None and isinstance(error, base.PolicyError)


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
