#!/usr/bin/env python3
"""Runs a program under the filter of system calls of a systemd unit, where systemd itself does not run.

    confine.py UNIT PROGRAM [ARGUMENT...]

What the unit forbids is refused with EPERM, as `SystemCallErrorNumber=EPERM` has it.
"""

import errno
import os
import pathlib
import sys

import check
import seccomp


def main():
    unit, *command = sys.argv[1:]
    refused = seccomp.SyscallFilter(defaction=seccomp.ERRNO(errno.EPERM))
    for name in check.allowed_syscalls(pathlib.Path(unit)):
        try:
            refused.add_rule(seccomp.ALLOW, name)
        except (RuntimeError, ValueError, OSError):
            # Another architecture's.
            continue
    refused.load()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
