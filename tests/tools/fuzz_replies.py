# Connections through a proxy that answers with anything; see tests/fuzz.rs.
import errno, socket, sys
count, seen = int(sys.argv[1]), {}
for n in range(count):
    s = socket.socket()
    try:
        s.connect(("203.0.113.%d" % (1 + n % 200), 80))
        s.recv(100)
    except OSError as e:
        seen[errno.errorcode.get(e.errno)] = seen.get(errno.errorcode.get(e.errno), 0) + 1
    s.close()
    if n == count // 10:
        print("WARM", flush=True)
        sys.stdin.readline()
print(seen)
print("DONE", flush=True)
sys.stdin.readline()
