//! What an operator gets wrong, and what the machine does not have: each refusal names file, key or device, value and way out.

use crate::common::{alone, folder, is_root, until};
use crate::link::Link;
use crate::load::{Model, options, write_count};
use crate::node::{DESTINATION, Demo, Pair, SOURCE, VOLUME_BYTES, stop};
use crate::process::{refused, run, signal};
use ibid_client::Initiator;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

#[test]
fn a_configuration_is_refused_with_file_key_value_and_what_is_allowed() {
    let folder = folder();
    let pair = Pair::new(folder.path(), Link::Memif);
    let good = pair.configs[SOURCE].to_toml();
    let file = folder.path().join("bad.toml");
    let file = file.to_str().unwrap();
    let cases: [(&str, &str, &[&str]); 5] = [
        (
            "role = \"source\"",
            "role = \"primary\"",
            &["node.role", "primary", "\"source\" or \"destination\""],
        ),
        ("lba = 4096", "lba = 1024", &["lba", "1024", "512 or 4096"]),
        ("segments = 4", "segments = 2", &["log.segments", "2", "from 3 to 64"]),
        ("mtu = 9000", "mtu = 9000\nspeed = 3", &["link.speed"]),
        (
            "listen = \"127.0.0.1:0\"",
            "listen = \"0.0.0.0:4420\"",
            &["target.listen", "0.0.0.0:4420", "allow_wildcard"],
        ),
    ];
    for (from, to, words) in cases {
        assert!(good.contains(from), "{good}");
        std::fs::write(file, good.replacen(from, to, 1)).unwrap();
        for command in ["run", "status", "cp"] {
            let said = refused(&[command, "--config", file]);
            for word in words.iter().chain(&[file]) {
                assert!(said.contains(word), "{word} is not in: {said}");
            }
        }
    }
    // Both mistakes at once.
    std::fs::write(
        file,
        good.replacen("lba = 4096", "lba = 1024", 1).replacen("segments = 4", "segments = 2", 1),
    )
    .unwrap();
    let said = refused(&["run", "--config", file]);
    assert!(said.contains("lba") && said.contains("log.segments"), "{said}");
    let said = refused(&["run", "--config", "/nonexistent/node.toml"]);
    assert_eq!(
        said,
        "ibid: /nonexistent/node.toml: can't be read: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_node_that_is_not_there_is_said_once_and_plainly() {
    let folder = folder();
    let socket = folder.path().join("none.sock");
    for command in ["status", "cp"] {
        let said = refused(&[command, "--control", socket.to_str().unwrap()]);
        assert!(said.contains(socket.to_str().unwrap()), "{said}");
        assert!(said.contains("is `ibid run` active"), "{said}");
        assert_eq!(said.matches("No such file or directory").count(), 1, "{said}");
    }
    let said =
        refused(&["bench", "--connect", "127.0.0.1:9", "--nqn", "nqn.2026-01.org.example:none"]);
    assert!(said.contains("127.0.0.1:9") && said.contains("refused"), "{said}");
    assert_eq!(said.matches("Connection refused").count(), 1, "{said}");
}

#[test]
fn devices_ports_and_sockets_of_a_running_node_are_nobody_elses() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    let [mut source, mut destination] = pair.start_both();
    let file = pair.config_file(SOURCE);

    let said = refused(&["run", "--config", file.to_str().unwrap()]);
    let log = pair.configs[SOURCE].log.device.to_str().unwrap();
    assert!(said.contains(&format!("log.device {log}: it is in use by another process")), "{said}");

    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let second = other.join("node.toml");
    let second = second.to_str().unwrap();
    let mut config = pair.configs[SOURCE].clone();
    config.log.device = other.join("log");
    std::fs::write(second, config.to_toml()).unwrap();
    let said = refused(&["run", "--config", second]);
    let volume = pair.volume(SOURCE).to_str().unwrap();
    assert!(
        said.contains(&format!("volume.device {volume}: it is in use by another process")),
        "{said}"
    );

    // Its own devices now, but its port is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    config.volumes[0].device = other.join("volume");
    config.node.control = other.join("control.sock");
    config.target.as_mut().unwrap().listen = listen;
    if let ibid_control::config::LinkDevice::Memif { socket, .. } = &mut config.link.device {
        *socket = other.join("memif.sock");
    }
    std::fs::write(second, config.to_toml()).unwrap();
    let said = refused(&["run", "--config", second]);
    assert!(said.contains(&format!("target.listen = {listen}: Address already in use")), "{said}");

    // Its port now, but the other's control socket.
    drop(taken);
    config.node.control = pair.control(SOURCE).to_owned();
    std::fs::write(second, config.to_toml()).unwrap();
    let said = refused(&["run", "--config", second]);
    assert!(said.contains(pair.control(SOURCE).to_str().unwrap()), "{said}");

    // The running pair has taken no harm.
    let mut model = Model::new(VOLUME_BYTES, 4096);
    let mut initiator = pair.connect();
    write_count(&mut initiator, &mut model, 16, 200);
    assert!(stop(&mut source).success());
    assert!(stop(&mut destination).success());
    pair.assert_identical(&mut model);

    // A log of another role, pair and shape.
    pair.configs[SOURCE].log.device = pair.configs[DESTINATION].log.device.clone();
    std::fs::write(&file, pair.configs[SOURCE].to_toml()).unwrap();
    let said = refused(&["run", "--config", file.to_str().unwrap()]);
    assert!(said.contains("the log device was a destination's"), "{said}");
}

#[test]
fn an_interface_that_is_not_there_and_a_port_number_that_is_taken_are_named() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    pair.configs[SOURCE].link.device =
        ibid_control::config::LinkDevice::AfPacket { interface: "ibid-none0".to_owned() };
    let mut source = pair.start(SOURCE);
    assert_eq!(source.ended().code(), Some(1));
    let said = source.said();
    assert!(said.contains("ibid-none0"), "{said}");
    assert!(
        said.ends_with(
            "ibid: link.interface = ibid-none0: there is no such network interface here\n"
        ),
        "{said}"
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let said =
        refused(&["demo", "--serve", "--link", "memif", "--size", "32MiB", "--listen", &listen]);
    assert!(said.contains(&listen) && said.contains("Address already in use"), "{said}");
}

#[test]
fn a_log_without_room_for_the_map_of_a_device_is_refused_with_the_size_it_needs() {
    let _alone = alone();
    let folder = folder();
    let mut pair = Pair::new(folder.path(), Link::Memif);
    // Only the device tells how large the volume is: 128 MiB need two pages of map.
    let volume = std::fs::File::create(pair.volume(SOURCE)).unwrap();
    volume.set_len(128 << 20).unwrap();
    pair.configs[SOURCE].volumes[0].size = None;
    pair.configs[SOURCE].log.size = Some(17 << 20);
    let mut source = pair.start(SOURCE);
    assert_eq!(source.ended().code(), Some(1));
    let said = source.said();
    assert!(
        said.ends_with(
            "ibid: log.size = 17MiB: must be at least 17416KiB, that is 4 segments of 4MiB, 1MiB for superblocks, and 8KiB for the map of the volumes\n"
        ),
        "{said}"
    );
    assert!(!pair.configs[SOURCE].log.device.exists(), "a refused start has made a log");
    // Where the file says nothing it is as large as it needs to be.
    pair.configs[SOURCE].log.size = None;
    let mut source = pair.start(SOURCE);
    until("it answers", || crate::node::status(pair.control(SOURCE)));
    assert_eq!(std::fs::metadata(&pair.configs[SOURCE].log.device).unwrap().len(), 17416 << 10);
    assert!(stop(&mut source).success());
}

/// The program where everybody may run it, and a folder where `nobody` may write.
fn as_nobody(folder: &std::path::Path) -> Option<Command> {
    let program = folder.join("ibid");
    std::fs::copy(env!("CARGO_BIN_EXE_ibid"), &program).unwrap();
    for path in [folder, &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]);
    let works = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "true"])
        .status();
    works.is_ok_and(|status| status.success()).then(|| {
        command.arg(program);
        command
    })
}

#[test]
fn anybody_may_run_the_demonstration_and_is_told_what_only_root_has() {
    let _alone = alone();
    let folder = folder();
    if !is_root() {
        println!("SKIPPED: only root can become somebody else");
        return;
    }
    let Some(mut command) = as_nobody(folder.path()) else {
        println!("SKIPPED: setpriv (util-linux) is not here");
        return;
    };
    let kept = folder.path().join("kept");
    command
        .args(["demo", "--serve", "--listen", "127.0.0.1:0", "--size", "32MiB", "--keep"])
        .arg(&kept);
    let mut demo = Demo::start_as(command, folder.path());
    demo.folder.clone_from(&kept);
    let mut initiator = Initiator::connect(demo.addr, &demo.nqn, &options(2, 16, false)).unwrap();
    let mut model = Model::new(VOLUME_BYTES, 4096);
    write_count(&mut initiator, &mut model, 16, 300);
    model.check_target(&mut initiator);
    let status = crate::node::status(&demo.control("source")).unwrap();
    assert_eq!(status.link.device, "memif");
    println!("as nobody: huge pages {}, {:?}", status.log.huge_pages, status.warnings);
    assert_eq!(demo.stop("TERM"), (Some(0), vec!["mirror identical: yes".to_owned()]));
    model.check_file(&demo.volume("destination"));

    // What needs root says so.
    let mut command = as_nobody(folder.path()).unwrap();
    command.args([
        "demo",
        "--serve",
        "--listen",
        "127.0.0.1:0",
        "--size",
        "32MiB",
        "--link",
        "af_packet",
    ]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("needs root; or use --link memif"), "{said}");
}

#[test]
fn the_help_of_every_command_can_be_read() {
    for command in ["run", "status", "cp", "verify", "dump", "bench", "demo"] {
        let output = run(&[command, "--help"]);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("Usage: ibid {command}")), "{text}");
        assert!(!text.contains("stop-with-parent"), "{text}");
    }
}

#[test]
fn a_node_that_waits_for_its_peer_stops_at_once() {
    let _alone = alone();
    let folder = folder();
    let pair = Pair::new(folder.path(), Link::Memif);
    for which in [SOURCE, DESTINATION] {
        let mut node = pair.start(which);
        until("it answers", || crate::node::status(pair.control(which)));
        let began = std::time::Instant::now();
        signal(node.pid(), "TERM");
        assert!(node.ended().success());
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }
}
