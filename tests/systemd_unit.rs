//! netjail as a unit of a host that systemd has booted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

const REGISTRY: &str = "version: \"1.0\"\nnamespace: app\nentries:\n  \
                        - {name: proxy, kind: network.socks5, host: 127.0.0.1, port: 1080}\n";

#[test]
fn the_lab_boots_a_host_and_runs_a_script_in_it() {
    root_only!();
    require!(lab::systemd::lack().is_none(), "{}", lab::systemd::lack().unwrap());
    let done = lab::systemd::boot("systemctl is-system-running; cat /proc/1/comm", &[]);
    assert!(done.out.contains("systemd\n") && done.out.contains("status 0"), "{done:?}");
}

#[test]
fn a_unit_runs_behind_a_proxy() {
    root_only!();
    require!(lab::systemd::lack().is_none(), "{}", lab::systemd::lack().unwrap());
    let script = "ip link set lo up; ip addr add 203.0.113.80/32 dev lo; microsocks -i 0.0.0.0 -p 1080 & proxy=$!\n\
                  until (exec 3<>/dev/tcp/127.0.0.1/1080) 2>/dev/null; do sleep 0.05; done\n\
                  systemd-run --wait --pipe -q /netjail run --registry /registry.yaml --network app:proxy -- \
                  /probe connect 203.0.113.80:1080; echo code $?\nkill $proxy; wait";
    let script = format!("cat >/inner <<'EOF'\n{script}\nEOF\nbash /inner");
    let done = lab::systemd::boot(&script, &[("registry.yaml", REGISTRY)]);
    assert!(done.out.contains("code 0") && done.out.contains("connected 203.0.113.80"), "{done:?}");
}

#[test]
fn a_unit_of_an_ordinary_user_runs_and_one_without_devices_is_told() {
    root_only!();
    require!(lab::systemd::lack().is_none(), "{}", lab::systemd::lack().unwrap());
    let script = "useradd -m u; cd /home/u; run='systemd-run --wait --pipe -q -p User=u -p WorkingDirectory=/home/u'\n\
                  $run /netjail run --network nil -- sh -c 'echo I am $(id -un)'; echo code-user $?\n\
                  $run -p PrivateDevices=yes /netjail run --network nil -- true; echo code-devices $?";
    let done = lab::systemd::boot(script, &[]);
    assert!(done.out.contains("I am u\ncode-user 0\n"), "{done:?}");
    assert!(done.out.contains("/dev/net/tun") && done.out.contains("code-devices 125\n"), "{done:?}");
}

#[test]
fn a_unit_of_type_notify_is_ready_when_the_program_in_the_jail_says_so() {
    root_only!();
    require!(lab::systemd::lack().is_none(), "{}", lab::systemd::lack().unwrap());
    let run = |flags: &str| {
        format!(
            "systemd-run --wait --pipe -q -p Type=notify -p TimeoutStartSec=60 /netjail run --registry /registry.yaml \
             --network app:proxy {flags} -- sh -c 'systemd-notify --ready; true'; echo code {flags} $?"
        )
    };
    let script =
        format!("cat >/inner <<'EOF'\nip link set lo up\n{}\n{}\nEOF\nbash /inner", run("--allow-datagrams"), run(""));
    let done = lab::systemd::boot(&script, &[("registry.yaml", REGISTRY)]);
    assert!(done.out.contains("code --allow-datagrams 0"), "{done:?}");
    assert!(!done.out.contains("code  0"), "a unit that never says that it is ready fails: {done:?}");
}
