//! QUIC with real code (quinn): a server that sends back what it is sent, and a client that checks every byte of it.
//!
//! `quic serve ADDR CERT KEY` says `serving`, and serves until it is killed. `quic get ADDR NAME CA MIB` sends and receives so
//! many MiB and says `moved`; then, for each line of its standard input, once more on the same connection.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, SmolRuntime, TransportConfig,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn main() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", addr, cert, key] => smol::block_on(serve(addr.parse().unwrap(), cert, key)),
        ["get", addr, name, ca, mib] => {
            let addr = std::net::ToSocketAddrs::to_socket_addrs(addr).unwrap().next().unwrap();
            smol::block_on(get(addr, name, ca, mib.parse().unwrap()));
        }
        _ => panic!("quic serve ADDR CERT KEY | quic get ADDR NAME CA MIB"),
    }
}

/// No keep-alive: idleness is what some tests are about.
fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_secs(200)).unwrap()));
    Arc::new(transport)
}

fn endpoint(addr: SocketAddr, server: Option<ServerConfig>) -> Endpoint {
    let socket = std::net::UdpSocket::bind(addr).unwrap();
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(SmolRuntime)).unwrap()
}

async fn serve(addr: SocketAddr, cert: &str, key: &str) {
    let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    config.transport_config(transport());
    let endpoint = endpoint(addr, Some(config));
    println!("serving");
    while let Some(incoming) = endpoint.accept().await {
        smol::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                while let Ok(Some(chunk)) = receive.read_chunk(usize::MAX, true).await {
                    if send.write_chunk(chunk.bytes).await.is_err() {
                        return;
                    }
                }
                let _ = send.finish();
            }
        })
        .detach();
    }
}

async fn get(addr: SocketAddr, name: &str, ca: &str, mib: usize) {
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_file_iter(ca).unwrap().for_each(|cert| roots.add(cert.unwrap()).unwrap());
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(transport());
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let mut endpoint = endpoint(any.parse().unwrap(), None);
    endpoint.set_default_client_config(config);
    let connection = match endpoint.connect(addr, name).unwrap().await {
        Ok(connection) => connection,
        Err(e) => return println!("failed {e}"),
    };
    let mut round = 0;
    loop {
        match exchange(&connection, mib << 20, round).await {
            Ok(()) => {
                let stats = connection.stats();
                let (datagrams, calls) = (stats.udp_tx.datagrams, stats.udp_tx.ios);
                println!("moved {mib} MiB both ways; sent {datagrams} datagrams in {calls} calls");
            }
            Err(e) => return println!("failed {e}"),
        }
        round += 1;
        let mut line = String::new();
        // Nobody else runs here: idleness is complete.
        let more = smol::unblock(move || std::io::stdin().lock().read_line(&mut line).unwrap()).await;
        if more == 0 {
            return;
        }
    }
}

fn byte(at: usize, round: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16) ^ (round * 77)) as u8
}

/// Sends so many bytes and gets them back, at once.
async fn exchange(connection: &Connection, total: usize, round: usize) -> Result<(), String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
    let up = smol::spawn(async move {
        let mut at = 0;
        while at < total {
            let piece: Vec<u8> = (at..(at + 65_536).min(total)).map(|at| byte(at, round)).collect();
            at += piece.len();
            send.write_all(&piece).await.map_err(|e| e.to_string())?;
        }
        send.finish().map_err(|e| e.to_string())
    });
    let mut at = 0;
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await.map_err(|e| e.to_string())? {
        if let Some(bad) = chunk.bytes.iter().enumerate().position(|(i, got)| *got != byte(at + i, round)) {
            return Err(format!("a wrong byte at {}", at + bad));
        }
        at += chunk.bytes.len();
    }
    up.await?;
    if at == total { Ok(()) } else { Err(format!("{at} bytes of {total}")) }
}
