"""What files and directories must bear, done on one mount and looked at on another. Arguments: both mount points.

A step that fails ends it; the last line says that it came to its end.
"""

import ctypes
import os
import stat
import sys
import threading

ONE, TWO = sys.argv[1], sys.argv[2]
LIBC = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
ENTRIES, MAKERS = 100_000, 8
TIB = 1 << 40


def ok(what):
    print("ok", what, flush=True)


def same(found, expected):
    if found != expected:
        raise SystemExit(f"{found!r} instead of {expected!r}")


def renameat2(old, new, flags):
    if LIBC.renameat2(-100, old.encode(), -100, new.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def fallocate(fd, mode, offset, length):
    offset, length = ctypes.c_int64(offset), ctypes.c_int64(length)
    if LIBC.fallocate(fd, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def sparse():
    size = 8 * TIB
    with open(f"{ONE}/sparse", "wb") as file:
        for at in (0, 3 * TIB + 12345, size - 3):
            os.pwrite(file.fileno(), b"abc", at)
        os.fsync(file.fileno())
    with open(f"{TWO}/sparse", "rb") as file:
        fd = file.fileno()
        same(os.fstat(fd).st_size, size)
        for at in (0, 3 * TIB + 12345, size - 3):
            same(os.pread(fd, 3, at), b"abc")
        same(os.pread(fd, 4096, TIB), bytes(4096))
        if os.fstat(fd).st_blocks * 512 >= 64 << 20:
            raise SystemExit(f"{os.fstat(fd).st_blocks} blocks for nine bytes")
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        data = os.lseek(fd, hole, os.SEEK_DATA)
        if not 0 < hole < data <= 3 * TIB + 12345:
            raise SystemExit(f"a hole at {hole}, data at {data}")
        same(os.lseek(fd, size - 1, os.SEEK_HOLE), size)
    os.unlink(f"{ONE}/sparse")
    ok("8 TiB, almost all of it holes")


def punched():
    content = bytes(range(256)) * 8192
    write(f"{ONE}/punched", content)
    with open(f"{ONE}/punched", "r+b") as file:
        fd = file.fileno()
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 5000, 1_300_000)
        fallocate(fd, ZERO_RANGE, 1_900_001, 100)
        fallocate(fd, KEEP_SIZE, 4 << 20, 1 << 20)
    expected = bytearray(content)
    expected[5000:1_305_000] = bytes(1_300_000)
    expected[1_900_001:1_900_101] = bytes(100)
    same(read(f"{TWO}/punched") == bytes(expected), True)
    same(os.stat(f"{TWO}/punched").st_size, len(content))
    with open(f"{TWO}/punched", "r+b") as file:
        fallocate(file.fileno(), 0, 0, 3 << 20)
    same(os.stat(f"{ONE}/punched").st_size, 3 << 20)
    same(read(f"{ONE}/punched")[len(content) :], bytes((3 << 20) - len(content)))
    ok("holes punched, ranges zeroed, room allocated")


def renamed():
    write(f"{ONE}/a", b"a")
    os.mkdir(f"{ONE}/b")
    write(f"{ONE}/b/inside", b"b")
    renameat2(f"{ONE}/a", f"{ONE}/b", EXCHANGE)
    same(read(f"{TWO}/b"), b"a")
    same(read(f"{TWO}/a/inside"), b"b")
    try:
        renameat2(f"{TWO}/b", f"{TWO}/a", NOREPLACE)
        raise SystemExit("RENAME_NOREPLACE replaced")
    except FileExistsError:
        pass
    renameat2(f"{TWO}/b", f"{TWO}/c", NOREPLACE)
    same(sorted(name for name in os.listdir(ONE) if name in "abc"), ["a", "c"])
    ok("exchanged, and not replaced")


def privileges():
    path = f"{ONE}/privileged"
    write(path, b"x")
    os.chown(path, 65534, 65534)
    for mode in (0o4755, 0o2755, 0o6755):
        os.chmod(path, mode)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with open(path, "ab") as file:
                file.write(b"y")
            os._exit(0)
        same(os.waitpid(child, 0)[1], 0)
        same(oct(stat.S_IMODE(os.stat(f"{TWO}/privileged").st_mode)), oct(0o755))
    same(read(f"{TWO}/privileged"), b"xyyy")
    ok("a write by somebody else takes suid and sgid")


def many():
    os.mkdir(f"{ONE}/many")

    def make(first):
        for number in range(first, ENTRIES, MAKERS):
            os.mknod(f"{ONE}/many/{number:06}")

    makers = [threading.Thread(target=make, args=[first]) for first in range(MAKERS)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    names = os.listdir(f"{TWO}/many")
    same(len(names), ENTRIES)
    same(sorted(names) == [f"{number:06}" for number in range(ENTRIES)], True)
    for number in range(0, ENTRIES, 9973):
        same(os.stat(f"{TWO}/many/{number:06}").st_size, 0)
    # Names that go while they are listed: each of the others is seen, and once.
    gone = {f"{number:06}" for number in range(0, ENTRIES, 50)}
    seen = []
    with os.scandir(f"{TWO}/many") as entries:
        for at, entry in enumerate(entries):
            seen.append(entry.name)
            if at == 1000:
                for name in gone:
                    os.unlink(f"{ONE}/many/{name}")
    same(len(seen), len(set(seen)))
    same(set(names) - gone <= set(seen), True)
    same(len(os.listdir(f"{ONE}/many")), ENTRIES - len(gone))
    ok(f"{ENTRIES} entries in a directory, some of them removed while it is listed")


for step in (sparse, punched, renamed, privileges, many):
    step()
print("all done")
