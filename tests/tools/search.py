# Reads all that a process can read without being asked who it is (netlink dumps, /proc, /sys, /etc, /run, logs, the
# environment) and prints what it finds of the texts and bytes in the file that is named: one `found WHAT WHERE` for each place.
#
# The file has a line for each: what, and in hexadecimal the bytes (so that this process itself does not hold them as text).
import os, socket, stat, struct, sys

wanted = []
for line in open(sys.argv[1]):
    what, hexadecimal = line.split()
    wanted.append((what, bytes.fromhex(hexadecimal).lower()))

found, files = set(), 0

def look(where, data):
    data = data.lower()
    for what, text in wanted:
        if text in data:
            found.add((what, where))

def dump(protocol, kind, family):
    """The answer to a dump request, whole. The kernel answers within sendto and recv: there is nothing to wait for."""
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    s.setblocking(False)
    body = bytes([family]) + bytes(27)
    try:
        s.sendto(struct.pack("=IHHII", 16 + len(body), kind, 0x301, 1, 0) + body, (0, 0))
        while True:
            data = s.recv(1 << 20)
            look("netlink %d/%d" % (protocol, kind), data)
            # NLMSG_ERROR, NLMSG_DONE as the first message; a dump's last part is a message of its own.
            if len(data) < 6 or struct.unpack("=H", data[4:6])[0] in (2, 3):
                return
    except OSError:
        pass
    finally:
        s.close()

# The endless, the blocking, and this process's own memory.
PASSED_OVER = {"kmsg", "kcore", "mem", "pagemap", "clear_refs", "kpagecount", "kpageflags", "kpagecgroup", "trace_pipe",
               "map_files", "task", "thread-self", "slab", "btf", "debug", "tracing"}

def tree(folder, depth=0):
    global files
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name in PASSED_OVER or depth > 20:
            continue
        look(entry.path, os.fsencode(entry.path))
        try:
            if entry.is_symlink():
                look(entry.path, os.fsencode(os.readlink(entry.path)))
            elif entry.is_dir():
                # Of processes this one and the first: the others come and go.
                if folder != "/proc" or not entry.name.isdigit() or entry.name in ("1", str(os.getpid())):
                    tree(entry.path, depth + 1)
            elif entry.is_file():
                fd = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
                files += 1
                try:
                    data = b""
                    while len(data) < 4 << 20:
                        part = os.read(fd, 1 << 16)
                        if not part:
                            break
                        data += part
                finally:
                    look(entry.path, data)
                    os.close(fd)
        except OSError:
            pass

for protocol in range(0, 23):
    for kind in range(18, 122, 4) if protocol in (0, 4) else (16, 20):
        for family in (0, 2, 10, 7):
            try:
                dump(protocol, kind, family)
            except OSError:
                pass
for name, value in os.environb.items():
    look("variable " + os.fsdecode(name), value)
for fact in os.uname():
    look("uname", fact.encode())
for root in ("/proc", "/sys", "/etc", "/run", "/var/log", "/var/lib", "/var/spool", "/var/cache", "/boot", "/dev"):
    tree(root)
for what, where in sorted(found):
    print("found", what, where)
print("files", files)
