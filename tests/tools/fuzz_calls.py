# connect(2) with random descriptors, addresses, lengths and pointers; see tests/fuzz.rs.
import ctypes, os, random, socket, struct, sys
count, seed = int(sys.argv[1]), int.from_bytes(os.urandom(8), "big")
print("seed", seed)
r = random.Random(seed)
libc = ctypes.CDLL(None)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK); listener.bind("s"); listener.listen(1)
def sockets():
    return [socket.socket(f, k | socket.SOCK_NONBLOCK) for f, k in
            ((2, 1), (10, 1), (2, 2), (10, 2), (1, 1), (1, 5), (16, 3))]
fds = sockets()
room = ctypes.create_string_buffer(4096)
heads = (b"", b"/proc/self/", b"/proc/self/fd/", b"/proc/self/fd/3/", b"/proc/thread-self/cwd/", b"/", b"../", b"\0", b"s\0", b"./s")
for n in range(count):
    if n % 256 == 0:
        for s in fds:
            s.close()
        fds = sockets()
    family = r.choice((1, 1, 1, 2, 10, 16, 0, r.randrange(65536)))
    body = r.choice(heads) + r.randbytes(r.randrange(120))
    if family in (2, 10) and r.random() < 0.8:
        body = struct.pack(">H", r.choice((0, 1, 9, 65535))) + r.choice((b"\x7f\0\0\1", b"\0" * 4, b"\xe0\0\0\1", r.randbytes(4))) + r.randbytes(24)
    room.raw = (struct.pack("H", family) + body).ljust(4096, b"\0")
    fd = r.choice(fds).fileno() if r.random() < 0.9 else r.randrange(-2, 1100)
    at = ctypes.addressof(room) if r.random() < 0.95 else r.choice((0, 1, 2**47, 2**64 - 8, r.getrandbits(64)))
    length = r.choice((len(body) + 2, 2, 16, 28, 110, 128, r.randrange(200), 0, 2**31 - 1, 2**32 - 1))
    libc.connect(fd, ctypes.c_void_p(at), ctypes.c_uint(length))
    # One that is asked of the proxy must not pile up.
    if n == count // 10:
        print("WARM", flush=True)
        sys.stdin.readline()
c = socket.socket(socket.AF_UNIX)
listener.listen(4096)
c.connect("s")
print("DONE", flush=True)
sys.stdin.readline()
