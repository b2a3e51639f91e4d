"""What one mount does the other sees at once. Arguments: the two mount points. Each step prints `ok NAME`."""

import fcntl
import mmap
import multiprocessing
import os
import sys
import time

one, two = sys.argv[1], sys.argv[2]


def a(name):
    return os.path.join(one, name)


def b(name):
    return os.path.join(two, name)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def same(found, expected, what):
    if found != expected:
        sys.exit(f"{what}: {found!r} instead of {expected!r}")


def ok(step):
    print("ok", step, flush=True)


def raises(error, call, what):
    try:
        call()
    except error:
        return
    sys.exit(f"{what}: no {error.__name__}")


def appender(path, word):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(100):
        os.write(descriptor, f"{word} {number:04}\n".encode())
    os.close(descriptor)


def counter(path, lock, rounds):
    for _ in range(rounds):
        descriptor = os.open(path, os.O_RDWR)
        lock(descriptor, fcntl.LOCK_EX)
        value = int(os.pread(descriptor, 20, 0) or b"0")
        os.pwrite(descriptor, str(value + 1).encode(), 0)
        os.close(descriptor)


def hold_and_die(path, lock, held):
    descriptor = os.open(path, os.O_RDWR)
    lock(descriptor, fcntl.LOCK_EX)
    held.set()
    os._exit(0)


def together(target, arguments):
    processes = [multiprocessing.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        same(process.exitcode, 0, target.__name__)


write(a("first"), b"from one")
same(read(b("first")), b"from one", "read after write")
ok("written here, read there")

before = os.open(b("first"), os.O_RDONLY)
same(os.pread(before, 100, 0), b"from one", "the open descriptor")
writer = os.open(a("first"), os.O_WRONLY)
for number in range(50):
    os.pwrite(writer, f"number {number:03}".encode(), 0)
    same(os.pread(before, 100, 0), f"number {number:03}".encode(), "an open descriptor")
same(os.fstat(before).st_size, 10, "size through an open descriptor")
ok("through descriptors that were open before, unsynced")

os.ftruncate(writer, 3)
same(os.pread(before, 100, 0), b"num", "after truncation")
same(os.stat(b("first")).st_size, 3, "size after truncation")
os.ftruncate(writer, 6)
same(os.pread(before, 100, 0), b"num\0\0\0", "after growing")
os.close(writer)
ok("truncate")

os.rename(a("first"), a("second"))
raises(FileNotFoundError, lambda: os.stat(b("first")), "the old name")
same(read(b("second")), b"num\0\0\0", "the new name")
os.mkdir(b("directory"))
os.rename(a("second"), a("directory/third"))
same(os.listdir(b("directory")), ["third"], "listing")
ok("rename")

os.unlink(a("directory/third"))
raises(FileNotFoundError, lambda: os.stat(b("directory/third")), "an unlinked name")
same(os.pread(before, 100, 0), b"num\0\0\0", "an unlinked file that is open there")
os.close(before)
os.rmdir(a("directory"))
raises(FileNotFoundError, lambda: os.listdir(b("directory")), "a removed directory")
ok("unlink, unlinked but open, rmdir")

write(a("log"), b"")
together(appender, [(a("log"), "one"), (b("log"), "two")])
lines = read(a("log")).decode().splitlines()
same(len(set(lines)), 200, "appended lines")
same([line for line in lines if line.startswith("one")], [f"one {n:04}" for n in range(100)], "order")
same(read(b("log")), read(a("log")), "both sides")
ok("append from both sides")

big = os.urandom(5_000_000)
write(a("big"), big)
same(read(b("big")) == big, True, "five megabytes")
with open(b("big"), "r+b") as file:
    file.seek(2_000_000)
    file.write(b"middle")
big = big[:2_000_000] + b"middle" + big[2_000_006:]
same(read(a("big")) == big, True, "after an overwrite there")
ok("large files")

for exclusive in range(20):
    made = 0
    for path in (a(f"exclusive-{exclusive}"), b(f"exclusive-{exclusive}")):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            made += 1
        except FileExistsError:
            pass
    same(made, 1, "exclusive creates")
ok("O_EXCL")

for name, lock in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
    write(a("lock"), b"0")
    mine = os.open(a("lock"), os.O_RDWR)
    theirs = os.open(b("lock"), os.O_RDWR)
    lock(mine, fcntl.LOCK_EX)
    raises(BlockingIOError, lambda: lock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB), name)
    lock(mine, fcntl.LOCK_UN)
    lock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock(theirs, fcntl.LOCK_UN)
    os.close(mine)
    os.close(theirs)
    together(counter, [(a("lock"), lock, 50), (b("lock"), lock, 50)])
    same(read(a("lock")), b"100", f"a counter under {name}")
    held = multiprocessing.Event()
    dying = multiprocessing.Process(target=hold_and_die, args=(a("lock"), lock, held))
    dying.start()
    held.wait(60)
    theirs = os.open(b("lock"), os.O_RDWR)
    lock(theirs, fcntl.LOCK_EX)
    os.close(theirs)
    dying.join(60)
    ok(f"{name} across mounts: excluded, waited for, freed by its owner's end")

mine = os.open(a("lock"), os.O_RDWR)
theirs = os.open(b("lock"), os.O_RDWR)
fcntl.lockf(mine, fcntl.LOCK_EX, 10, 0)
fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
raises(BlockingIOError, lambda: fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5), "ranges")
os.close(mine)
os.close(theirs)
ok("ranges of a file")

os.setxattr(a("log"), "user.colour", b"blue")
same(os.getxattr(b("log"), "user.colour"), b"blue", "an attribute")
os.chmod(b("log"), 0o640)
same(os.stat(a("log")).st_mode & 0o777, 0o640, "mode")
os.link(a("log"), a("log-too"))
same(os.stat(b("log")).st_nlink, 2, "links")
ok("attributes, modes, links")

write(a("mapped"), b"0" * 5000)
mine = os.open(a("mapped"), os.O_RDWR | os.O_APPEND)
with mmap.mmap(mine, 5000) as mapped:
    mapped[0:5] = b"first"
    mapped.flush()
same(os.stat(a("mapped")).st_size, 5000, "the size after a change through a mapping")
same(read(b("mapped"))[:6], b"first0", "what was changed through a mapping of a file opened to append")
os.write(mine, b"more")
same(os.stat(b("mapped")).st_size, 5004, "the size after an append")
fcntl.fcntl(mine, fcntl.F_SETFL, 0)
os.pwrite(mine, b"second", 10)
same(read(b("mapped"))[10:17], b"second0", "written in place after O_APPEND was cleared")
theirs = os.open(b("mapped"), os.O_WRONLY | os.O_APPEND)
fcntl.fcntl(mine, fcntl.F_SETFL, os.O_APPEND)
os.write(theirs, b" theirs")
os.write(mine, b" mine")
same(read(b("mapped"))[5000:], b"more theirs mine", "appended after O_APPEND was set")
os.close(theirs)
os.close(mine)
ok("O_APPEND set and cleared, mappings")

os.mkdir(a("going"))
mine = os.open(a("going"), os.O_RDONLY | os.O_DIRECTORY)
os.rmdir(b("going"))
for _ in range(30):
    time.sleep(0.1)
    same(os.fstat(mine).st_nlink < 2 and os.listdir(mine), [], "an open directory that was removed")
os.close(mine)
ok("a removed directory that is open")

for name in os.listdir(two):
    os.unlink(b(name))
same(os.listdir(one), [], "what is left")
ok("removed there, gone here")
print("both done")
