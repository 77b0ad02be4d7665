//! The service units, held against systemd and against the program.

use std::fs;
use std::process::Command;

use crate::support::process::Process;
use crate::support::temp_dir;
use crate::support::torrent_cache::binary;
use crate::text;

pub const UNITS: [&str; 2] = ["torrent-cache-client.service", "torrent-cache-tracker.service"];

/// The most that `systemd-analyze security` may find exposed, in tenths: 13 is what remains when a
/// service only has the network.
const EXPOSURE_MAX: &str = "13";

/// What `systemd-analyze` says of the unit `name` with this text, and whether it succeeds.
fn analyze(arguments: &[&str], name: &str, unit: &str) -> (bool, String) {
    let dir = temp_dir();
    let path = dir.path().join(name);
    fs::write(&path, unit).expect("disk has room");
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).arg(&path);
    let finished = Process::run("systemd-analyze", command, "systemd");
    (finished.status.success(), finished.output)
}

/// A unit of the tree, with the program where it is.
fn unit(name: &str) -> String {
    let unit = text(&format!("packaging/systemd/{name}"));
    let installed = "ExecStart=/usr/bin/torrent-cache ";
    assert!(unit.contains(installed), "{name} starts something else");
    unit.replace(installed, &format!("ExecStart={} ", binary().to_string_lossy()))
}

/// The values of a setting of a unit, in order.
pub fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    for name in UNITS {
        let unit = unit(name);
        assert_eq!(analyze(&["verify", "--man=no"], name, &unit), (true, String::new()));
        let typo = unit.replace("ProtectHome=", "ProtectHoem=");
        let (_, output) = analyze(&["verify", "--man=no"], name, &typo);
        assert!(output.contains("ProtectHoem"), "a typo goes unnoticed: {output}");
    }
}

#[test]
fn the_units_give_away_little() {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let arguments = ["security", "--offline=true", "--no-pager", &threshold];
    for name in UNITS {
        let unit = unit(name);
        let (small, output) = analyze(&arguments, name, &unit);
        assert!(small, "{output}");
        let (small, _) = analyze(&arguments, name, &unit.replace("PrivateDevices=yes", ""));
        assert!(!small, "the threshold of {name} can be lower");
    }
}

#[test]
fn the_units_wait_for_the_program_and_start_it_again() {
    for name in UNITS {
        let unit = unit(name);
        assert_eq!(settings(&unit, "Type"), ["notify"]);
        assert_eq!(settings(&unit, "Restart"), ["always"]);
        assert_eq!(settings(&unit, "DynamicUser"), ["yes"]);
        let folder = settings(&unit, "StateDirectory")[0];
        assert_eq!(format!("{folder}.service"), name);
        // Under a dynamic user only this folder can be written to.
        for option in settings(&unit, "Environment") {
            assert!(option.contains(&format!("=%S/{folder}")), "{name}: {option}");
        }
    }
}
