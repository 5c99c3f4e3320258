#!/usr/bin/env python3
"""Files that read slowly: each is covered by a file system of its own, which waits before it gives the bytes.

Run as a program with DELAY_MS and FILE... it mounts over each FILE, prints a line, and serves until its standard input
ends; then it takes all of that away. It speaks the kernel's FUSE protocol (`linux/fuse.h`, 7.31) itself: a file system whose
root is one regular file, which can be read and not be changed. Whoever reads it blocks as on a disk that is slow:
in `read`, in `sendfile`, in a page fault. It needs the right to mount, and /dev/fuse.
"""

import ctypes
import heapq
import os
import pathlib
import select
import struct
import subprocess
import sys
import time

MAX_BYTES = 1 << 20
INIT, GETATTR, SETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, FORGET, BATCH_FORGET, INTERRUPT, DESTROY = (
    26, 3, 4, 14, 15, 17, 18, 25, 2, 42, 36, 38)
HEAD = struct.Struct("<IIQQIIII")
UMOUNT_DETACH = 2
LIBC = ctypes.CDLL(None, use_errno=True)


class SlowDisk:
    """The program, run by whoever imports this."""

    def __init__(self, files, delay_ms):
        self.process = subprocess.Popen([sys.executable, __file__, str(delay_ms), *map(str, files)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.problem = None
        if self.process.stdout.readline().strip() != "mounted":
            self.process.wait()
            self.problem = self.process.stderr.read().strip().splitlines()[-1:]

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class File:
    """One file, and the requests for it."""

    def __init__(self, path):
        self.path = os.fsencode(path)
        self.below = os.open(path, os.O_RDONLY)
        self.status = os.fstat(self.below)
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        options = f"fd={self.device},rootmode=100444,user_id={os.getuid()},group_id={os.getgid()},allow_other".encode()
        if LIBC.mount(b"slow", self.path, b"fuse", 6, options) != 0:
            raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")

    def attributes(self):
        s = self.status
        return struct.pack("<QQQQQQIIIIIIIIII", 1, s.st_size, s.st_blocks, int(s.st_atime), int(s.st_mtime),
                           int(s.st_ctime), 0, s.st_mtime_ns % 10**9, 0, 0o100644, 1, s.st_uid, s.st_gid, 0, 4096, 0)

    def reply(self, unique, data=b"", error=0):
        try:
            os.write(self.device, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)
        except OSError:
            # Who asked is gone.
            return

    def step(self, later):
        try:
            asked = os.read(self.device, MAX_BYTES + 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        _, opcode, unique, _, _, _, _, _ = HEAD.unpack_from(asked)
        body = asked[HEAD.size:]
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return True
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            later(self, unique, offset, size)
        elif opcode == INIT:
            major, minor, readahead, _ = struct.unpack_from("<IIII", body)
            # ASYNC_READ, so that one reader's wait is not the next one's, and 256 requests at a time.
            self.reply(unique, struct.pack("<IIIIHHIIHH", 7, 31, readahead, 1, 256, 256, 131072, 1, 0, 0) + bytes(32))
        elif opcode in (GETATTR, SETATTR):
            self.reply(unique, struct.pack("<QII", 3600, 0, 0) + self.attributes())
        elif opcode == OPEN:
            # KEEP_CACHE: what was read once is as fast as any file.
            self.reply(unique, struct.pack("<QII", 1, 2, 0))
        elif opcode in (RELEASE, FLUSH, DESTROY):
            self.reply(unique)
        elif opcode == STATFS:
            self.reply(unique, struct.pack("<QQQQQIIII", 1, 1, 1, 1, 1, 4096, 255, 4096, 0) + bytes(24))
        else:
            self.reply(unique, error=38)
        return True

    def give(self, unique, offset, size):
        self.reply(unique, os.pread(self.below, size, offset))

    def end(self):
        LIBC.umount2(self.path, UMOUNT_DETACH)
        os.close(self.device)


def serve(files, delay):
    poll, by_number, due = select.epoll(), {}, []
    for file in files:
        by_number[file.device] = file
        poll.register(file.device, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    print("mounted", flush=True)
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else 1.0
        for number, _ in poll.poll(wait):
            file = by_number.get(number)
            if file is None:
                return
            later = lambda file, *what: heapq.heappush(due, (time.monotonic() + delay, what, file.device))
            if not file.step(later):
                poll.unregister(number)
        while due and due[0][0] <= time.monotonic():
            _, what, number = heapq.heappop(due)
            by_number[number].give(*what)


def main():
    files = []
    try:
        for path in sys.argv[2:]:
            files.append(File(pathlib.Path(path)))
        serve(files, int(sys.argv[1]) / 1e3)
    except OSError as error:
        sys.exit(str(error))
    finally:
        for file in files:
            file.end()


if __name__ == "__main__":
    main()
