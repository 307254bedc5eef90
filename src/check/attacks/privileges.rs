//! Door 4: set-user-id programs, capabilities, mounts, and files that root owns.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, geteuid};

use super::call::{Arg, ZERO, any, call, descriptor, ends_within, refused, socket};
use super::{Attack, Context, Outcome};

pub const ATTACKS: &[Attack] = &[
    Attack::new("setuid-program", "gain root from a set-user-id program", setuid),
    Attack::new("setuid-file", "leave a set-user-id file of root's in the working folder", setuid_file),
    Attack::new("file-capabilities", "give a file in the working folder capabilities", file_capabilities),
    Attack::new("cgroup-clone", "put a child into a control group by clone3, past a read-only mount", cgroup_clone),
    Attack::new("capabilities", "hold or regain a capability", capabilities),
    Attack::new("no-new-privs", "run without no_new_privs", |_| match nix::sys::prctl::get_no_new_privs() {
        Ok(false) => Ok("no_new_privs is not set".into()),
        Ok(true) => Err("no_new_privs is set".into()),
        Err(e) => Err(e.to_string()),
    }),
    Attack::new("mount", "mount a file system", |_| {
        unshare(CloneFlags::CLONE_NEWNS).map_err(refused("unshare"))?;
        private_mounts()?;
        mount(Some("t"), "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(refused("mount"))?;
        Ok("a tmpfs covers /proc".into())
    }),
    Attack::new("network-admin", "change a link of the namespace that this process is in", |_| change_link()),
    Attack::new("network-admin-nested", "the same from a further user namespace", |_| {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(refused("unshare"))?;
        change_link()
    }),
    Attack::new("tun-open", "open /dev/net/tun", |_| open_for_writing(&["/dev/net/tun"])),
    Attack::new("tun-attach", "attach to a queue of the TUN device", tun),
    Attack::new("device-node", "make and open a node of a block device, of memory or of the TUN device", device_node),
    Attack::new("block-device", "read a disk", |_| {
        let table = fs::read_to_string("/proc/partitions").unwrap_or_default();
        let names: Vec<String> = table
            .lines()
            .skip(2)
            .filter_map(|line| Some(format!("/dev/{}", line.split_whitespace().nth(3)?)))
            .collect();
        any(names, |path| {
            fs::File::open(&path).map(|_| format!("{path} can be read")).map_err(|e| format!("{path}: {e}"))
        })
    }),
    Attack::new("kernel-devices", "open /dev/mem, /dev/kmsg, /dev/fuse, /dev/kvm, /dev/vsock or /dev/uinput", |_| {
        open_for_writing(&[
            "/dev/mem",
            "/dev/kmsg",
            "/dev/fuse",
            "/dev/kvm",
            "/dev/vsock",
            "/dev/vhost-vsock",
            "/dev/vhost-net",
            "/dev/uinput",
            "/dev/rfkill",
            "/dev/ppp",
        ])
    }),
    Attack::new("unmount", "take a mount off that hides something", unmount),
    Attack::new("fresh-sysfs", "mount a fresh sysfs that shows the host's links", fresh_sysfs),
    Attack::new("core-pattern", "write /proc/sys/kernel/core_pattern", |_| {
        open_for_writing(&["/proc/sys/kernel/core_pattern"])
    }),
    Attack::new("sysctl-kernel", "write other settings of the kernel", |_| {
        open_for_writing(&[
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/hotplug",
            "/proc/sys/vm/panic_on_oom",
            "/proc/sys/fs/binfmt_misc/register",
            "/proc/sys/kernel/hostname",
        ])
    }),
    Attack::new("sysctl-net", "write settings of the network", |_| {
        open_for_writing(&["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/forwarding"])
    }),
    Attack::new("sysrq", "write /proc/sysrq-trigger", |_| open_for_writing(&["/proc/sysrq-trigger"])),
    Attack::new("sysfs-write", "write a file of /sys", |_| {
        open_for_writing(&[
            "/sys/kernel/uevent_helper",
            "/sys/power/state",
            "/sys/class/net/lo/mtu",
            "/sys/module/printk/parameters/time",
            "/sys/kernel/profiling",
        ])
    }),
    Attack::new("cgroup-write", "write a file of a cgroup hierarchy", cgroup),
    Attack::new("system-files", "write a file of the system", |_| {
        open_for_writing(&[
            "/etc/passwd",
            "/etc/shadow",
            "/etc/hosts",
            "/etc/crontab",
            "/usr/lib/os-release",
            "/usr/bin/env",
            "/root/.bashrc",
        ])
    }),
    Attack::new("core-dump-program", "have a core dump fed to a program outside", core_dump),
];

/// Opening is enough: what is opened for writing can be written, and nothing is.
fn open_for_writing(paths: &[&str]) -> Outcome {
    any(paths, |path| {
        let name = CString::new(*path).map_err(|e| e.to_string())?;
        let flags = Arg::Int((libc::O_WRONLY | libc::O_NONBLOCK | libc::O_CLOEXEC).into());
        descriptor(libc::SYS_openat, &mut [Arg::Int(libc::AT_FDCWD.into()), Arg::Text(&name), flags, ZERO])
            .map(|_| format!("{path} is open for writing"))
            .map_err(refused(path))
    })
}

fn setuid(_: &Context) -> Outcome {
    if geteuid().is_root() {
        return Err("this is root already".into());
    }
    let candidates =
        ["/usr/bin/su", "/bin/su", "/usr/bin/passwd", "/usr/bin/chsh", "/usr/bin/newgrp", "/usr/bin/mount"];
    let is_setuid = |path: &&&str| fs::metadata(path).is_ok_and(|m| m.uid() == 0 && m.mode() & 0o4000 != 0);
    any(candidates.iter().filter(is_setuid), |path| {
        let child = Command::new(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("{path}: {e}"))?;
        // The ids change in exec, which spawn has waited for; a program that ends at once leaves a zombie with its ids.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let mut child = child;
        let _ = child.kill();
        let _ = child.wait();
        let ids = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
        match ids.split_whitespace().nth(2) {
            Some("0") => Ok(format!("{path} runs with user id 0")),
            _ => Err(format!("{path} runs with {ids}")),
        }
    })
}

fn capabilities(_: &Context) -> Outcome {
    let status = fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    let sets: Vec<&str> =
        status.lines().filter(|line| line.starts_with("Cap") && !line.ends_with("\t0000000000000000")).collect();
    if sets.is_empty() { Err("all five sets are empty".into()) } else { Ok(sets.join(" ").replace('\t', " ")) }
}

/// Sets the flags of `lo` to what they are already: SIOCSIFFLAGS asks for CAP_NET_ADMIN first.
fn change_link() -> Outcome {
    const SIOCGIFFLAGS: i64 = 0x8913;
    const SIOCSIFFLAGS: i64 = 0x8914;
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(refused("socket"))?;
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    let number = || Arg::Int(fd.as_raw_fd().into());
    call(libc::SYS_ioctl, &mut [number(), Arg::Int(SIOCGIFFLAGS), Arg::Buffer(&mut request)])
        .map_err(refused("SIOCGIFFLAGS"))?;
    call(libc::SYS_ioctl, &mut [number(), Arg::Int(SIOCSIFFLAGS), Arg::Buffer(&mut request)])
        .map_err(refused("SIOCSIFFLAGS"))?;
    Ok("the flags of lo can be set".into())
}

fn tun(_: &Context) -> Outcome {
    const TUNSETIFF: i64 = 0x4004_54ca;
    let flags = Arg::Int((libc::O_RDWR | libc::O_CLOEXEC).into());
    let device =
        descriptor(libc::SYS_openat, &mut [Arg::Int(libc::AT_FDCWD.into()), Arg::Text(c"/dev/net/tun"), flags, ZERO])
            .map_err(refused("/dev/net/tun"))?;
    // IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR, with and without the last two; `njtest` is a new device.
    let kinds = [0x0001u16 | 0x1000 | 0x0100 | 0x4000, 0x0001 | 0x1000 | 0x4000, 0x0001 | 0x1000];
    any(["tun0", "njtest"].iter().flat_map(|name| kinds.map(|kind| (name, kind))), |(name, kind)| {
        let mut request = [0u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&kind.to_ne_bytes());
        let number = Arg::Int(device.as_raw_fd().into());
        call(libc::SYS_ioctl, &mut [number, Arg::Int(TUNSETIFF), Arg::Buffer(&mut request)])
            .map(|_| format!("holds a queue of {name}"))
            .map_err(refused(name))
    })
}

fn device_node(c: &Context) -> Outcome {
    let nodes = [("tun", libc::S_IFCHR, 10, 200), ("mem", libc::S_IFCHR, 1, 1), ("disk", libc::S_IFBLK, 254, 0)];
    any(nodes, |(name, kind, major, minor)| {
        let path = c.file.with_file_name(format!("node-{name}"));
        let text = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
        let device = libc::makedev(major, minor);
        let at = Arg::Int(libc::AT_FDCWD.into());
        call(libc::SYS_mknodat, &mut [at, Arg::Text(&text), Arg::Int((kind | 0o600).into()), Arg::Int(device as i64)])
            .map_err(refused(&format!("mknod {name}")))?;
        let opened = fs::File::open(&path).map_err(|e| format!("open {name}: {e}"));
        let _ = fs::remove_file(&path);
        opened.map(|_| format!("made and opened a node of {name}"))
    })
}

fn private_mounts() -> Result<(), String> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(refused("close propagation"))
}

/// Always in a mount namespace of its own, so that nothing comes off outside.
fn unmount(_: &Context) -> Outcome {
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(refused("unshare"))?;
    }
    private_mounts()?;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let mut points: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|p| *p != "/").collect();
    points.reverse();
    any(points, |point| {
        umount2(point, MntFlags::MNT_DETACH).map(|()| format!("{point} came off")).map_err(refused(point))
    })
}

fn fresh_sysfs(c: &Context) -> Outcome {
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(refused("unshare"))?;
    }
    private_mounts()?;
    let at = c.file.with_file_name("sysfs");
    let _ = fs::create_dir(&at);
    let mounted = mount(Some("sysfs"), &at, Some("sysfs"), MsFlags::empty(), None::<&str>).map_err(refused("mount"));
    let outcome = mounted.and_then(|()| {
        any(&c.interfaces, |(name, mac)| {
            let path = at.join("class/net").join(name).join("address");
            match fs::read_to_string(&path) {
                Ok(text) if text.trim() == mac => Ok(format!("{name} has {mac}")),
                Ok(_) => Err(format!("another {name}")),
                Err(e) => Err(format!("{name}: {e}")),
            }
        })
    });
    let _ = umount2(&at, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(&at);
    outcome
}

fn cgroup(_: &Context) -> Outcome {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let points = table.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    any(points, |point| {
        any(["release_agent", "cgroup.procs", "cgroup.subtree_control"], |name| {
            let path = Path::new(point).join(name);
            open_for_writing(&[&path.to_string_lossy()])
        })
    })
}

/// With a piped pattern the kernel starts a program outside for every dump; the limit 1 keeps it from doing so (core(5)).
fn core_dump(_: &Context) -> Outcome {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if !pattern.starts_with('|') && !pattern.starts_with('@') {
        return Err("core dumps are plain files here".into());
    }
    // SAFETY: the child makes two calls and ends by a signal.
    match unsafe { nix::unistd::fork() }.map_err(refused("fork"))? {
        nix::unistd::ForkResult::Child => {
            let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
            let _ = nix::sys::prctl::set_dumpable(true);
            // SAFETY: ends this child.
            unsafe { libc::abort() }
        }
        nix::unistd::ForkResult::Parent { child } => {
            ends_within(Pid::from_raw(child.as_raw()), Duration::from_secs(5));
            match nix::sys::wait::waitpid(child, None) {
                Ok(nix::sys::wait::WaitStatus::Signaled(_, _, true)) => {
                    Ok("the kernel dumped core through the pipe".into())
                }
                Ok(_) | Err(Errno::ECHILD) => Err("no core was dumped".into()),
                Err(e) => Err(e.to_string()),
            }
        }
    }
}

/// Whether uid 0 of this namespace is the machine's.
fn is_root_outside() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    geteuid().is_root() && map.split_whitespace().take(2).eq(["0", "0"])
}

/// A set-user-id file is a danger only where its owner is root.
fn setuid_file(c: &Context) -> Outcome {
    if !is_root_outside() {
        return Err("this is not root".into());
    }
    let file = c.file.with_file_name(format!("setuid-{}", std::process::id()));
    let text = CString::new(file.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    let at = || Arg::Int(libc::AT_FDCWD.into());
    let (mode, makes) = (0o4755, i64::from(libc::O_CREAT | libc::O_WRONLY));
    let node = || Arg::Int(i64::from(libc::S_IFREG) | mode);
    let mut how = [makes as u64, mode as u64, 0].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    type Way<'a> = (&'a str, libc::c_long, Vec<Arg<'a>>, bool);
    let mut ways: Vec<Way<'_>> = vec![
        ("fchmodat", libc::SYS_fchmodat, vec![at(), Arg::Text(&text), Arg::Int(mode)], true),
        ("fchmodat2", 452, vec![at(), Arg::Text(&text), Arg::Int(mode), ZERO], true),
        ("openat", libc::SYS_openat, vec![at(), Arg::Text(&text), Arg::Int(makes), Arg::Int(mode)], false),
        ("openat2", libc::SYS_openat2, vec![at(), Arg::Text(&text), Arg::Buffer(&mut how), Arg::Int(24)], false),
        ("mknodat", libc::SYS_mknodat, vec![at(), Arg::Text(&text), node(), ZERO], false),
    ];
    #[cfg(target_arch = "x86_64")]
    ways.extend([
        ("chmod", libc::SYS_chmod, vec![Arg::Text(&text), Arg::Int(mode)], true),
        ("open", libc::SYS_open, vec![Arg::Text(&text), Arg::Int(makes), Arg::Int(mode)], false),
        ("creat", libc::SYS_creat, vec![Arg::Text(&text), Arg::Int(mode)], false),
        ("mknod", libc::SYS_mknod, vec![Arg::Text(&text), node(), ZERO], false),
    ]);
    let mut failures = Vec::new();
    for (name, number, mut arguments, exists) in ways {
        let _ = fs::remove_file(&file);
        if exists {
            fs::write(&file, "x").map_err(|e| e.to_string())?;
        }
        let made = call(number, &mut arguments);
        let found = fs::metadata(&file).is_ok_and(|found| found.mode() & 0o4000 != 0 && found.uid() == 0);
        let _ = fs::remove_file(&file);
        if found {
            return Ok(format!("{name} left a set-user-id file of root's"));
        }
        failures.push(format!("{name}: {made:?}"));
    }
    Err(failures.join("; "))
}

/// CAP_NET_RAW, as a file of version 2 holds it (capabilities(7)); from a user namespace of its own as well.
fn file_capabilities(c: &Context) -> Outcome {
    let file = c.file.with_file_name(format!("capable-{}", std::process::id()));
    fs::write(&file, "x").map_err(|e| e.to_string())?;
    let text = CString::new(file.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    let value: Vec<u8> = [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let (uid, gid, root) = (geteuid(), nix::unistd::getegid(), is_root_outside());
    let outcome = any([false, true], |nested| {
        if nested {
            unshare(CloneFlags::CLONE_NEWUSER).map_err(refused("unshare"))?;
            let map = |name: &str, id: u32| fs::write(format!("/proc/self/{name}"), format!("0 {id} 1"));
            let _ = fs::write("/proc/self/setgroups", "deny");
            map("uid_map", uid.as_raw()).and_then(|()| map("gid_map", gid.as_raw())).map_err(|e| e.to_string())?;
        }
        let size = Arg::Int(value.len() as i64);
        let mut arguments = [Arg::Text(&text), Arg::Text(c"security.capability"), Arg::Bytes(&value), size, ZERO];
        call(libc::SYS_setxattr, &mut arguments).map_err(refused("setxattr"))?;
        // What an ordinary user's namespace gives counts in namespaces of that user alone.
        if !root {
            return Err("only capabilities of its own namespaces".into());
        }
        Ok("a file of the working folder has CAP_NET_RAW".into())
    });
    let _ = fs::remove_file(&file);
    outcome
}

fn cgroup_clone(_: &Context) -> Outcome {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let mounts = table.lines().filter(|line| line.contains(" - cgroup2 ")).filter_map(|line| line.split(' ').nth(4));
    any(mounts, |folder| {
        let group = fs::File::open(folder).map_err(|e| format!("{folder}: {e}"))?;
        let mut words = [0u64; 11];
        (words[0], words[4], words[10]) = (CLONE_INTO_CGROUP, libc::SIGCHLD as u64, group.as_raw_fd() as u64);
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match call(libc::SYS_clone3, &mut [Arg::Buffer(&mut bytes), Arg::Int(88)]).map_err(refused("clone3"))? {
            // SAFETY: the child of a process that is about to end; it runs nothing of what its parent left in memory.
            0 => unsafe { libc::_exit(0) },
            _ => Ok(format!("a child was put into the control group {folder}")),
        }
    })
}
