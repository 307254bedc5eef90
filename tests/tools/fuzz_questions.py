# Random questions to the jail's resolver, by UDP and TCP; see tests/fuzz.rs.
import os, random, socket, struct, sys
count, seed = int(sys.argv[1]), int.from_bytes(os.urandom(8), "big")
print("seed", seed)
r = random.Random(seed)
server = next(l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver"))
def good(id):
    return struct.pack(">HHHHHH", id, 0x100, 1, 0, 0, 0) + b"\x05hello\x04test\x00\x00\x01\x00\x01"
def bad():
    if r.random() < 0.2:
        return r.randbytes(r.randrange(600))
    name = b"".join(bytes([n]) + r.randbytes(n) for n in (r.randrange(64) for _ in range(r.randrange(6)))) + b"\0"
    m = bytearray(struct.pack(">HHHHHH", r.randrange(65536), r.choice((0x100, 0, r.randrange(65536))), r.choice((1, 1, 1, r.randrange(9))), 0, 0, r.choice((0, 1))) + name
        + struct.pack(">HH", r.choice((1, 28, 65, 255, 12, r.randrange(65536))), r.choice((1, 1, 255))) + r.choice((b"", b"\0\0\x29\x10\0\0\0\0\0\0\0", r.randbytes(20))))
    for _ in range(r.randrange(5)):
        m[r.randrange(len(m))] = r.choice((0xc0, r.randrange(256)))
    return bytes(m[:r.randrange(len(m) + 1)] if r.random() < 0.1 else m)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.connect((server, 53))
u.settimeout(60)
def answered(id):
    # Everything before this question has been read by now. A datagram may be lost in a full queue: then it is asked again.
    u.settimeout(2)
    for _ in range(30):
        u.send(good(id))
        try:
            while True:
                if u.recv(65535)[:2] == struct.pack(">H", id):
                    return
        except socket.timeout:
            continue
    sys.exit("no answer")
def stream(messages):
    s = socket.create_connection((server, 53), 60)
    try:
        for m in messages:
            length = len(m) if r.random() < 0.9 else r.randrange(65536)
            s.sendall(struct.pack(">H", length) + m)
        if r.random() < 0.5:
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
    except OSError:
        pass
    s.close()
for n in range(0, count, 64):
    for _ in range(56):
        try:
            u.send(bad())
        except OSError:
            pass
    stream([bad() for _ in range(8)])
    answered(n % 65536)
    if n <= count // 10 < n + 64:
        print("WARM", flush=True)
        sys.stdin.readline()
print("DONE", flush=True)
sys.stdin.readline()
