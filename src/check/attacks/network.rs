//! The network itself: packets that would go round the overlay, to the host or by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::call::{Arg, ZERO, any, call, refused, socket, told};
use super::{Attack, Context, Outcome, Proof, Way};

pub const ATTACKS: &[Attack] = &[
    Attack::new("tcp-loopback", "connect to a listener on the host's 127.0.0.1", |c| {
        tcp(Ipv4Addr::LOCALHOST.into(), c)
    }),
    Attack::new("tcp-own-address", "connect to a listener on the host's own addresses", |c| {
        any(&c.addresses, |a| tcp(*a, c))
    }),
    Attack::new("tcp-host-special", "connect by 0.0.0.0, 127.1.2.3, ::, ::1 and v4-mapped forms", |c| {
        any(specials(c), |a| tcp(a, c))
    }),
    Attack::new("udp-loopback", "ask a UDP server on the host's 127.0.0.1", |c| udp(Ipv4Addr::LOCALHOST.into(), c)),
    Attack::new("udp-own-address", "ask a UDP server on the host's own addresses", |c| {
        any(&c.addresses, |a| udp(*a, c))
    }),
    Attack::new("tcp-fast-open", "send with MSG_FASTOPEN instead of connect", fast_open),
    Attack::new("bind-to-device", "bind a socket to an interface of the host", |c| {
        any(&c.interfaces, |(name, _)| {
            let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(refused("socket"))?;
            let bytes = name.as_bytes();
            let level = Arg::Int(libc::SOL_SOCKET.into());
            let option = Arg::Int(libc::SO_BINDTODEVICE.into());
            let number = Arg::Int(fd.as_raw_fd().into());
            call(libc::SYS_setsockopt, &mut [number, level, option, Arg::Bytes(bytes), Arg::Int(bytes.len() as i64)])
                .map(|_| format!("bound to {name}"))
                .map_err(refused(name))
        })
    }),
    Attack::new("icmp", "ping an address of the host", ping),
    Attack::new("raw-ip", "send a packet through a raw socket", raw).proven(Proof::Arrived),
    Attack::new("packet-socket", "open AF_PACKET on an interface of the host", packet),
    Attack::new("multicast", "send to a multicast group that the host has joined", |c| {
        send_silently((Ipv4Addr::new(239, 255, 77, 77), c.silent_udp).into(), c)
    })
    .proven(Proof::Arrived),
    Attack::new("broadcast", "broadcast", |c| send_silently((Ipv4Addr::BROADCAST, c.silent_udp).into(), c))
        .proven(Proof::Arrived),
    Attack::new("metadata", "connect to the cloud's metadata service", |_| {
        let target = SocketAddr::from(([169, 254, 169, 254], 80));
        TcpStream::connect_timeout(&target, Duration::from_secs(2))
            .map(|_| format!("connected to {target}"))
            .map_err(|e| e.to_string())
    }),
    Attack::new("nested-netjail", "start another netjail with a direct network", nested),
    Attack::new("direct-tcp-loopback", "over a direct network: the host's 127.0.0.1", |c| {
        tcp(Ipv4Addr::LOCALHOST.into(), c)
    })
    .over(Way::Direct),
    Attack::new("direct-tcp-own-address", "over a direct network: the host's own addresses", |c| {
        any(&c.addresses, |a| tcp(*a, c))
    })
    .over(Way::Direct),
    Attack::new("direct-tcp-special", "over a direct network: 0.0.0.0, 127.1.2.3, ::, v4-mapped, NAT64, 6to4", |c| {
        any(specials(c), |a| tcp(a, c))
    })
    .over(Way::Direct),
    Attack::new("direct-tcp-name", "over a direct network: names of the host itself", names).over(Way::Direct),
    Attack::new("direct-udp", "over a direct network: UDP to the host's addresses", |c| {
        any([IpAddr::from(Ipv4Addr::LOCALHOST)].iter().chain(&c.addresses), |a| udp(*a, c))
    })
    .over(Way::Direct),
    Attack::new("direct-metadata", "over a direct network: the cloud's metadata service", |_| {
        let target = SocketAddr::from(([169, 254, 169, 254], 80));
        TcpStream::connect_timeout(&target, Duration::from_secs(2))
            .map(|_| format!("connected to {target}"))
            .map_err(|e| e.to_string())
    })
    .over(Way::Direct),
];

/// Other ways to write the host's own addresses.
fn specials(c: &Context) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = vec![
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(127, 1, 2, 3).into(),
        Ipv4Addr::new(127, 255, 255, 254).into(),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
    ];
    for address in c.addresses.iter().chain(&[Ipv4Addr::LOCALHOST.into()]) {
        if let IpAddr::V4(v4) = address {
            let [a, b, x, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, x << 8 | d);
            all.push(v4.to_ipv6_mapped().into());
            all.push(Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into());
            all.push(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into());
            all.push(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into());
        }
    }
    all
}

/// Connects and reads the token.
pub fn tcp(address: IpAddr, c: &Context) -> Outcome {
    let target = SocketAddr::new(address, c.tcp);
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(2)).map_err(|e| format!("{target}: {e}"))?;
    super::call::hear(stream.into(), &c.token, &target.to_string())
}

fn udp(address: IpAddr, c: &Context) -> Outcome {
    let target = SocketAddr::new(address, c.udp);
    let any_address: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any_address, 0)).map_err(|e| e.to_string())?;
    let _ = socket.set_read_timeout(Some(Duration::from_millis(300)));
    let refused = |e: std::io::Error| format!("{target}: {e}");
    socket.send_to(b"?", target).map_err(refused)?;
    let mut heard = [0u8; 256];
    let (length, _) = socket.recv_from(&mut heard).map_err(refused)?;
    told(&heard[..length], &c.token, &target.to_string())
}

fn fast_open(c: &Context) -> Outcome {
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0).map_err(refused("socket"))?;
    super::call::patience(&fd);
    let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(&c.tcp.to_be_bytes());
    address.extend_from_slice(&[127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let number = Arg::Int(fd.as_raw_fd().into());
    let flags = Arg::Int(libc::MSG_FASTOPEN.into());
    call(libc::SYS_sendto, &mut [number, Arg::Bytes(b"?"), Arg::Int(1), flags, Arg::Bytes(&address), Arg::Int(16)])
        .map_err(refused("sendto(MSG_FASTOPEN)"))?;
    super::call::hear(fd, &c.token, "a TCP listener on the host's loopback")
}

fn names(c: &Context) -> Outcome {
    let own = c.hostname.clone();
    any(["localhost".to_owned(), own, "host.docker.internal".into(), "_gateway".into()], |name| {
        use std::net::ToSocketAddrs;
        let found: Vec<SocketAddr> =
            (name.as_str(), c.tcp).to_socket_addrs().map_err(|e| format!("{name}: {e}"))?.collect();
        any(found, |address| tcp(address.ip(), c))
    })
}

/// An ICMP echo through the ping socket that ordinary users have.
fn ping(c: &Context) -> Outcome {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)
        .or_else(|_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP))
        .map_err(refused("socket"))?;
    super::call::patience(&fd);
    let own = c.addresses.iter().filter_map(|a| if let IpAddr::V4(v4) = a { Some(*v4) } else { None });
    any(own, |target| {
        let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        address.extend_from_slice(&[0, 0]);
        address.extend_from_slice(&target.octets());
        address.extend_from_slice(&[0; 8]);
        // Echo request, checksum filled in for a raw socket too: type 8, rest zero but the sum.
        let packet = [8u8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        let number = || Arg::Int(fd.as_raw_fd().into());
        call(
            libc::SYS_sendto,
            &mut [number(), Arg::Bytes(&packet), Arg::Int(8), ZERO, Arg::Bytes(&address), Arg::Int(16)],
        )
        .map_err(refused("sendto"))?;
        let mut heard = [0u8; 128];
        let length = call(libc::SYS_recvfrom, &mut [number(), Arg::Buffer(&mut heard), Arg::Int(128), ZERO, ZERO, ZERO])
            .map_err(refused("no answer"))? as usize;
        // A raw socket gets the IP header too.
        let first = if heard[0] == 0x45 { heard[20] } else { heard[0] };
        if length >= 8 && first == 0 { Ok(format!("{target} answered")) } else { Err(format!("ICMP type {first}")) }
    })
}

/// A whole IPv4 and UDP packet, made by hand.
fn raw(c: &Context) -> Outcome {
    let fd = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).map_err(refused("socket"))?;
    let text = c.token.as_bytes();
    let length = (28 + text.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    packet.extend_from_slice(&[0x30, 0x39]);
    packet.extend_from_slice(&c.silent_udp.to_be_bytes());
    packet.extend_from_slice(&(length - 20).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(text);
    let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(&[0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let number = Arg::Int(fd.as_raw_fd().into());
    let size = Arg::Int(packet.len() as i64);
    call(libc::SYS_sendto, &mut [number, Arg::Bytes(&packet), size, ZERO, Arg::Bytes(&address), Arg::Int(16)])
        .map_err(refused("sendto"))?;
    Ok("sent".into())
}

fn packet(c: &Context) -> Outcome {
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300).map_err(refused("socket"))?;
    any(&c.interfaces, |(name, mac)| {
        let mut request = [0u8; 40];
        let length = name.len().min(15);
        request[..length].copy_from_slice(&name.as_bytes()[..length]);
        let number = Arg::Int(fd.as_raw_fd().into());
        call(libc::SYS_ioctl, &mut [number, Arg::Int(0x8927), Arg::Buffer(&mut request)]).map_err(refused(name))?;
        Ok(format!("an AF_PACKET socket sees {name}, {mac}"))
    })
}

fn send_silently(target: SocketAddr, c: &Context) -> Outcome {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).map_err(|e| e.to_string())?;
    let _ = socket.set_broadcast(true);
    socket.send_to(c.token.as_bytes(), target).map_err(|e| format!("{target}: {e}"))?;
    Ok("sent".into())
}

fn nested(c: &Context) -> Outcome {
    let output = Command::new(&c.program)
        .args(["run", "-q", "--network", "nil", "--"])
        .arg(&c.program)
        .args(["selftest-attack", "tcp-loopback"])
        .arg(&c.file)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("\"Ok\"") {
        return Ok(text.trim().to_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(if why.is_empty() { text.trim().to_owned() } else { why })
}
